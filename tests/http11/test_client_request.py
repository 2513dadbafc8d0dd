"""Requests as they go upstream: what arrives is what was meant, and nothing can be smuggled in."""

import h11
import pytest

from illm.http11.client_request import RequestError, encode_fields, encode_head, framed

FIXED = encode_fields([(b"host", b"there:80"), (b"authorization", b"Bearer key")])


def encode_request(method: str, target: str, fixed: bytes, fields=(), body: bytes = b"") -> bytes:
    return b"".join(framed(encode_head(method, target, fixed, fields), body))


def read(wire: bytes) -> tuple[h11.Request, bytes]:
    server = h11.Connection(h11.SERVER)
    server.receive_data(wire)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return request, body


def test_a_request_arrives_as_it_was_meant():
    request, body = read(encode_request("POST", "/v1/x?a=b", FIXED, [(b"content-type", b"application/json")], b"{}"))
    assert (request.method, request.target, body) == (b"POST", b"/v1/x?a=b", b"{}")
    assert list(request.headers) == [
        (b"host", b"there:80"),
        (b"authorization", b"Bearer key"),
        (b"content-type", b"application/json"),
        (b"content-length", b"2"),
    ]


def test_an_empty_post_says_so_and_a_get_says_nothing():
    assert b"content-length: 0\r\n" in encode_request("POST", "/", FIXED)
    assert b"content-length" not in encode_request("GET", "/", FIXED)


def test_framing_is_ours():
    wire = encode_request("POST", "/", FIXED, [(b"Content-Length", b"9"), (b"Transfer-Encoding", b"chunked")], b"{}")
    assert read(wire)[1] == b"{}"
    assert wire.lower().count(b"content-length") == 1


@pytest.mark.parametrize(
    ("method", "target", "field"),
    [
        ("POST", "/a b", (b"x", b"y")),
        ("POST", "/a\r\nx: y", (b"x", b"y")),
        ("POST", "a", (b"x", b"y")),
        ("PO ST", "/", (b"x", b"y")),
        ("POST", "/", (b"x", b"y\r\nhost: evil")),
        ("POST", "/", (b"x", b"y\nz")),
        ("POST", "/", (b"x:", b"y")),
        ("POST", "/", (b"x y", b"z")),
        ("POST", "/", (b"", b"z")),
    ],
)
def test_what_could_forge_a_field_is_refused(method, target, field):
    with pytest.raises(RequestError):
        encode_request(method, target, FIXED, [field])


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 1_000_000])
def test_a_body_of_any_size_arrives_and_a_large_one_is_not_copied(size):
    body = b"x" * size
    pieces = framed(encode_head("POST", "/", FIXED), body)
    assert read(b"".join(pieces))[1] == body
    assert any(piece is body for piece in pieces) is (size > 64 * 1024)

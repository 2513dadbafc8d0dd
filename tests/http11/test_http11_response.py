"""Responses as bytes: one framing each, and nothing that only looks complete."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.http11 import ResponseEncoder, ResponseError, date_header

TEXT = (b"content-type", b"text/plain")


def encode(
    *pieces: bytes,
    status: int = 200,
    headers: tuple[tuple[bytes, bytes], ...] = (TEXT,),
    method: str = "GET",
    version: str = "1.1",
    keep_alive: bool = True,
) -> tuple[bytes, ResponseEncoder]:
    encoder = ResponseEncoder(method, version, keep_alive=keep_alive)
    encoder.start(status, headers)
    wire = b"".join(encoder.body(piece, more=i < len(pieces) - 1) for i, piece in enumerate(pieces))
    return wire, encoder


def decode(wire: bytes, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
    """What an independent client makes of it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    if event is h11.NEED_DATA:
        client.receive_data(b"")
        event = client.next_event()
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    return response.status_code, dict(response.headers), body


def test_one_piece_gets_a_length_and_one_write():
    encoder = ResponseEncoder("GET", "1.1", keep_alive=True)
    encoder.start(200, [TEXT])
    wire = encoder.body(b"hello", more=False)
    status, headers, body = decode(wire)
    assert (status, body, headers[b"content-length"], headers[b"server"]) == (200, b"hello", b"5", b"illm")
    assert b"date" in headers
    assert b"connection" not in headers
    assert encoder.complete


def test_several_pieces_come_in_chunks():
    wire, encoder = encode(b"", b"hello", b"", b"world", b"")
    _, headers, body = decode(wire)
    assert headers[b"transfer-encoding"] == b"chunked"
    assert body == b"helloworld"
    assert wire.endswith(b"\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n")
    assert encoder.complete


def test_the_last_piece_ends_the_chunks_in_the_same_write():
    encoder = ResponseEncoder("GET", "1.1", keep_alive=True)
    encoder.start(200, [])
    encoder.body(b"a", more=True)
    assert encoder.body(b"b", more=False) == b"1\r\nb\r\n0\r\n\r\n"


def test_the_applications_length_is_kept():
    wire, _ = encode(b"hel", b"lo", headers=((b"Content-Length", b"5"),))
    _, headers, body = decode(wire)
    assert body == b"hello"
    assert headers[b"content-length"] == b"5"


@pytest.mark.parametrize("pieces", [(b"hell",), (b"hello!",), (b"hel", b"lo!"), (b"hel", b"l"), (b"",)])
def test_a_body_that_does_not_fit_its_length_is_an_error_before_it_is_sent(pieces):
    encoder = ResponseEncoder("GET", "1.1", keep_alive=True)
    encoder.start(200, [(b"content-length", b"5")])
    *first, last = pieces
    for piece in first:
        encoder.body(piece, more=True)
    with pytest.raises(ResponseError):
        encoder.body(last, more=False)
    assert not encoder.complete


@pytest.mark.parametrize("value", [b"five", b"-5", b"+5", b"", b"5,5"])
def test_a_malformed_length_is_an_error(value):
    with pytest.raises(ResponseError):
        encode(b"hello", headers=((b"content-length", value),))


def test_head_has_the_fields_of_get_and_no_body():
    wire, encoder = encode(b"hello", method="HEAD", headers=((b"content-length", b"5"),))
    _, headers, body = decode(wire, "HEAD")
    assert (headers[b"content-length"], body) == (b"5", b"")
    assert encoder.complete
    wire, _ = encode(b"hel", b"lo", method="HEAD")
    assert wire.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(status):
    wire, encoder = encode(b"hello", status=status)
    assert decode(wire)[2] == b""
    assert b"transfer-encoding" not in wire
    assert encoder.keep_alive


def test_an_old_client_reads_to_the_end_of_the_connection():
    wire, encoder = encode(b"hello", b"", version="1.0")
    assert b"connection: close" in wire
    assert b"transfer-encoding" not in wire
    assert wire.endswith(b"\r\n\r\nhello")
    assert not encoder.keep_alive


@pytest.mark.parametrize("headers", [((b"connection", b"close"),), ((b"Connection", b"x, Close"),)])
def test_the_application_may_close(headers):
    wire, encoder = encode(b"x", headers=headers)
    assert wire.count(b"onnection:") == 1
    assert not encoder.keep_alive


def test_hop_by_hop_fields_are_ours():
    wire, _ = encode(b"hello", headers=((b"transfer-encoding", b"chunked"), (b"keep-alive", b"timeout=5")))
    _, headers, body = decode(wire)
    assert body == b"hello"
    assert b"transfer-encoding" not in headers
    assert b"keep-alive" not in headers


def test_the_applications_date_and_server_win():
    wire, _ = encode(b"", headers=((b"Date", b"then"), (b"Server", b"me")))
    _, headers, _ = decode(wire)
    assert (headers[b"date"], headers[b"server"]) == (b"then", b"me")


@pytest.mark.parametrize(
    "header",
    [
        (b"a", b"b\r\nset-cookie: x"),
        (b"a", b"b\nset-cookie: x"),
        (b"a", b"b\rc"),
        (b"a", b"b\0"),
        (b"a", b"b\r\n\r\nHTTP/1.1 200 OK"),
        (b"a: b\r\nc", b"d"),
        (b"a b", b"c"),
        (b"", b"c"),
        (b"a:", b"c"),
    ],
)
def test_a_field_cannot_forge_another(header):
    encoder = ResponseEncoder("GET", "1.1", keep_alive=True)
    with pytest.raises(ResponseError):
        encoder.start(200, [TEXT, header])
    encoder.start(500, [TEXT])  # nothing was sent, so an honest answer is still possible


@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6)), max_size=3))
def test_whatever_is_accepted_arrives_as_it_was_given(headers):
    try:
        wire, _ = encode(b"x", headers=tuple(headers))
    except ResponseError:
        return
    lines = wire.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    assert lines[: len(headers)] == [b"%b: %b" % pair for pair in headers]


@pytest.mark.parametrize("status", [100, 101, 199, 1000, 0])
def test_only_final_statuses(status):
    with pytest.raises(ResponseError):
        encode(b"", status=status)


def test_a_status_without_a_name():
    assert encode(b"", status=299)[0].startswith(b"HTTP/1.1 299 \r\n")


def test_out_of_order():
    encoder = ResponseEncoder("GET", "1.1", keep_alive=True)
    with pytest.raises(ResponseError):
        encoder.body(b"x", more=False)
    encoder.start(200, [])
    with pytest.raises(ResponseError):
        encoder.start(200, [])
    encoder.body(b"x", more=False)
    with pytest.raises(ResponseError):
        encoder.body(b"x", more=False)


def test_the_date_is_formatted_once_a_second(monkeypatch):
    now = 784111777.2
    monkeypatch.setattr("time.time", lambda: now)
    first = date_header()
    assert first == b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    now += 0.7
    assert date_header() is first
    now += 0.2
    assert date_header() != first

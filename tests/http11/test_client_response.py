"""Responses as they come from upstream: read the same at every cut, nothing ambiguous, and as h11 reads them."""

from dataclasses import dataclass

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.http11.client_response import ResponseHead, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

GOOD = {
    "counted": (OK + b"content-length: 5\r\n\r\nhello", b"hello", True),
    "empty": (OK + b"content-length: 0\r\n\r\n", b"", True),
    "chunked": (CHUNKED + b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n", b"hello world", True),
    "chunked, capitals": (OK + b"transfer-encoding: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789", True),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\nx: y\r\n\r\n", b"a", True),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 1\r\n\r\na", b"a", True),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\na: b\r\n\r\n" + OK + b"content-length: 1\r\n\r\na",
        b"a",
        True,
    ),
    "closing": (OK + b"content-length: 1\r\nConnection: Close\r\n\r\na", b"a", False),
    "http/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", b"a", False),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
}
UNTIL_CLOSE = OK + b"content-type: text/plain\r\n\r\nhello"

BAD = {
    "nonsense": b"SSH-2.0-OpenSSH_9.6\r\n",
    "http/2": b"HTTP/2 200\r\n\r\n",
    "http/0.9": b"hello",
    "bare lf": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "folded": OK + b"a: b\r\n c\r\n\r\n",
    "space before colon": OK + b"content-length : 5\r\n\r\n",
    "nul": OK + b"a: \x00\r\n\r\n",
    "two lengths": OK + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "length list": OK + b"content-length: 5, 5\r\n\r\nhello",
    "signed length": OK + b"content-length: +5\r\n\r\nhello",
    "length and chunks": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks in 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "chunk size": CHUNKED + b"0x5\r\nhello\r\n",
    "chunk size signed": CHUNKED + b"+5\r\nhello\r\n",
    "chunk size spaced": CHUNKED + b"5 \r\nhello\r\n",
    "chunk longer": CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
    "chunk shorter": CHUNKED + b"6\r\nhello\r\n0\r\n\r\n",
    "chunk bare lf": CHUNKED + b"5\nhello\n0\n\n",
    "trailer": CHUNKED + b"0\r\n x\r\n\r\n",
    "trailer bare lf": CHUNKED + b"0\r\na: b\n\r\n",
}


@dataclass(frozen=True)
class End:
    """The response is complete."""


@dataclass(frozen=True)
class Malformed:
    """It never will be."""

    reason: str


def parse(*pieces: bytes, method: str = "POST", eof: bool = False) -> tuple[list[object], bytes, ResponseParser]:
    """What was seen, in order; the body's bytes; the parser."""
    parser = ResponseParser(method)
    body = b"".join([parser.feed(piece) for piece in pieces])
    if eof:
        parser.eof()
    events: list[object] = [] if parser.head is None else [parser.head]
    if parser.over:
        events.append(End() if parser.fault is None else Malformed(parser.fault))
    return events, body, parser


def cuts(wire: bytes):
    yield from ((wire[:at], wire[at:]) for at in range(1, len(wire)))
    yield tuple(wire[at : at + 1] for at in range(len(wire)))


@pytest.mark.parametrize("name", GOOD)
def test_a_response_reads_the_same_at_every_cut(name):
    wire, body, reusable = GOOD[name]
    whole = parse(wire)
    assert isinstance(whole[0][0], ResponseHead)
    assert whole[0][1:] == [End()]
    assert (whole[1], whole[2].reusable) == (body, reusable)
    for pieces in cuts(wire):
        events, read, parser = parse(*pieces)
        assert (events, read, parser.reusable) == (whole[0], body, reusable)


def test_headers_are_lowercase_and_repeated_ones_joined():
    (head, _), _, _ = parse(OK + b"Set-Cookie: a\r\nSET-COOKIE:  b \r\nContent-Length: 0\r\n\r\n")
    assert head == ResponseHead(200, {b"set-cookie": b"a, b", b"content-length": b"0"}, 0, keep_alive=True)


def test_a_body_without_length_ends_with_the_connection():
    for pieces in cuts(UNTIL_CLOSE):
        events, body, parser = parse(*pieces, eof=True)
        assert (events[1:], body, parser.reusable) == ([End()], b"hello", False)


@pytest.mark.parametrize("name", BAD)
def test_what_is_malformed_or_ambiguous_is_refused_at_every_cut(name):
    for pieces in ((BAD[name],), *cuts(BAD[name])):
        events, _, parser = parse(*pieces, eof=True)
        assert isinstance(events[-1], Malformed)
        assert not any(isinstance(event, End) for event in events)
        assert not parser.reusable


def test_what_came_before_a_fault_is_told_however_it_was_cut():
    wire = CHUNKED + b"5\r\nhello\r\nzz\r\n"
    for pieces in ((wire,), *cuts(wire)):
        events, body, _ = parse(*pieces)
        assert (body, type(events[-1])) == (b"hello", Malformed)


@pytest.mark.parametrize("name", ["nonsense", "http/0.9", "bare lf", "nul", "chunk size", "trailer"])
def test_nonsense_is_not_waited_out(name):
    events, _, _ = parse(BAD[name])
    assert isinstance(events[-1], Malformed)


@pytest.mark.parametrize("name", [name for name in GOOD if name != "no content"])
def test_every_truncation_is_seen(name):
    wire = GOOD[name][0]
    for at in range(len(wire)):
        events, _, parser = parse(wire[:at], eof=True) if at else parse(eof=True)
        assert isinstance(events[-1], Malformed)
        assert not parser.reusable


def test_bytes_after_the_end_cost_the_connection():
    wire = GOOD["counted"][0]
    assert not parse(wire + b"x")[2].reusable
    assert not parse(wire, b"x")[2].reusable
    assert not parse(GOOD["chunked"][0] + b"x")[2].reusable


def test_a_response_to_head_has_no_body():
    events, body, parser = parse(OK + b"content-length: 5\r\n\r\n", method="HEAD")
    assert (events[1:], body, parser.reusable) == ([End()], b"", True)


@pytest.mark.parametrize(
    "wire", [OK + b"a: " + b"x" * 70_000, OK + b"a: b\r\n" * 20_000 + b"\r\n", CHUNKED + b"5;" + b"x" * 5_000]
)
def test_what_never_ends_is_bounded(wire):
    assert isinstance(parse(wire)[0][-1], Malformed)
    assert isinstance(parse(*(wire[at : at + 999] for at in range(0, len(wire), 999)))[0][-1], Malformed)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.data())
def test_chunks_read_as_h11_reads_them(chunks, data):
    wire = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    at = data.draw(st.integers(0, len(wire)))
    damaged = data.draw(st.booleans())
    if damaged:
        spot = data.draw(st.integers(len(CHUNKED), len(wire) - 1))
        wire = wire[:spot] + data.draw(st.binary(max_size=2)) + wire[spot + 1 :]
    events, body, _ = parse(*filter(None, (wire[:at], wire[at:])), eof=True)
    if isinstance(events[-1], End):  # what we call complete, h11 does too, and reads the same
        assert h11_reads(wire) == body
    else:
        assert damaged


def h11_reads(wire: bytes) -> bytes:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    client.receive_data(b"")
    assert isinstance(client.next_event(), h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return body

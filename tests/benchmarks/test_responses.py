"""The load generator's response parser: wherever the bytes are cut, the same body, and the end where it is."""

import pytest

from benchmarks.load.responses import MalformedResponseError, ResponseParser

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n \r\n005;ext=1\r\nworld\r\n0\r\n\r\n"


def parse(*pieces):
    parser = ResponseParser()
    body = b"".join([parser.feed(piece) for piece in pieces if piece])
    return parser, body


@pytest.mark.parametrize("wire", [LENGTH, CHUNKS], ids=["length", "chunks"])
def test_it_does_not_matter_where_the_bytes_are_cut(wire):
    for cut in range(len(wire) + 1):
        for second in range(cut, len(wire) + 1, 7):
            parser, body = parse(wire[:cut], wire[cut:second], wire[second:])
            assert (parser.complete, parser.head.status, body) == (True, 200, b"hello world"), (cut, second)


@pytest.mark.parametrize("wire", [LENGTH, CHUNKS], ids=["length", "chunks"])
def test_an_answer_is_not_complete_before_its_last_byte(wire):
    parser, _ = parse(wire[:-1])
    assert not parser.complete
    with pytest.raises(MalformedResponseError, match="ended within"):
        parser.end_of_connection()


@pytest.mark.parametrize("wire", [LENGTH, CHUNKS], ids=["length", "chunks"])
def test_bytes_after_the_end_are_no_answer(wire):
    with pytest.raises(MalformedResponseError):
        parse(wire + b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(MalformedResponseError):
        parse(wire, b"HTTP/1.1 200 OK\r\n")


def test_an_answer_may_end_with_its_connection():
    parser, body = parse(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo")
    assert (parser.complete, parser.head.keep, body) == (False, False, b"hello")
    parser.end_of_connection()
    assert parser.complete


def test_a_closing_answer_says_so():
    parser, _ = parse(b"HTTP/1.1 429 Too Many\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    assert parser.complete
    assert (parser.head.status, parser.head.keep) == (429, False)


@pytest.mark.parametrize("wire", [b"nonsense that is no head\r\n\r\n", CHUNKS.replace(b"5\r\nhello", b"x\r\nhello")])
def test_nonsense_is_called_so(wire):
    with pytest.raises(MalformedResponseError):
        parse(wire)

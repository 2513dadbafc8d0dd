"""Server-sent events, cut everywhere, with every line end, and of every odd shape the standard allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.core.sse import SSEDecoder
from illm.errors import GatewayError, Kind

WIRE = (
    b'\xef\xbb\xbf: a comment\n\nevent: x\nid: 7\nretry: 5\ndata: {"a":"\xc3\xa9\xf0\x9f\x98\x80"}\n\n'
    b"data:no blank\n\ndata:  two blanks\n\ndata: first\ndata: second\ndata\n\n: keep-alive\n\n"
    b"datax: not data\n\n\n\ndata: a:b\n: between\n\ndata: [DONE]\n\n"
)
EVENTS = ['{"a":"é😀"}'.encode(), b"no blank", b" two blanks", b"first\nsecond\n", b"a:b", b"[DONE]"]
ENDS = [b"\n", b"\r\n", b"\r"]


def decode(*pieces):
    decoder = SSEDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.close()


@pytest.mark.parametrize("end", ENDS)
def test_every_cut_gives_the_same_events(end):
    wire = WIRE.replace(b"\n", end)
    for cut in range(len(wire) + 1):
        assert decode(wire[:cut], wire[cut:]) == EVENTS
        assert decode(wire[:cut], b"", wire[cut : cut + 1], wire[cut + 1 :]) == EVENTS


@pytest.mark.parametrize("end", ENDS)
def test_a_byte_at_a_time(end):
    wire = WIRE.replace(b"\n", end)
    assert decode(*(wire[at : at + 1] for at in range(len(wire)))) == EVENTS


@given(st.lists(st.sampled_from([b"data: x", b"data:", b"data", b":", b"", b"y", b"\xff"])), st.data())
def test_line_ends_and_cuts_make_no_difference(lines, data):
    expected = decode(b"".join(line + b"\n" for line in lines))
    wire = b"".join(line + data.draw(st.sampled_from([b"\n", b"\r\n"])) for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)))))
    assert decode(*(wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True))) == expected


def test_an_event_is_given_as_soon_as_it_is_whole():
    decoder = SSEDecoder()
    assert decoder.feed(b"data: 1\n") == []
    assert decoder.feed(b"\n") == [b"1"]
    assert decoder.feed(b"data: 2\r\n\r") == [b"2"]
    assert decoder.feed(b"\ndata: 3\n\n") == [b"3"]


def test_a_last_event_without_an_empty_line_is_not_lost():
    assert decode(b"data: 1\n\ndata: [DONE]") == [b"1", b"[DONE]"]
    assert decode(b"data: a\ndata: b\n") == [b"a\nb"]
    assert decode(b"") == []


@pytest.mark.parametrize("piece", [b"x" * 10, b"data: xxxxxxxxxx\n"])
def test_an_endless_event_is_refused(piece):
    decoder = SSEDecoder(limit=100)
    for _ in range(5):
        decoder.feed(piece)
    with pytest.raises(GatewayError) as caught:
        feed_often(decoder, piece)
    assert caught.value.kind is Kind.UPSTREAM


def feed_often(decoder, piece):
    for _ in range(20):
        decoder.feed(piece)


def test_many_small_events_are_not_one_large_one():
    decoder = SSEDecoder(limit=100)
    assert sum(len(decoder.feed(b"data: x\n\n: comment\n\nevent: y\n\n")) for _ in range(1000)) == 1000

"""Every recorded answer cut and broken off at every byte: framing and meaning together, without sockets."""

from copy import copy
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.remote.recordings import cases, events, read
from backends.remote.replay_compare import fold
from backends.remote.replay_tables import FRAMEWORKS, OFFERED, REFUSED
from illm.backends.remote import sglang, vllm
from illm.config import Config
from illm.core.events import Done, Failed, Raw
from illm.dialects import openai
from illm.errors import Kind
from illm.http11.client_response import ResponseParser

pytestmark = pytest.mark.exhaustive

DIALECTS = {"vllm": vllm.dialect(Config()), "sglang": sglang.dialect(Config())}
PARSE = dict(zip(OFFERED, (openai.parse_chat, openai.parse_completion, openai.parse_embeddings), strict=True))
ANSWERS = [(server, case) for server, case in cases(*FRAMEWORKS, paths=OFFERED) if case not in REFUSED]
STREAMS = [name for name in ANSWERS if read(*name).streamed]

LONG, STRIDE = 4000, 1500
"""A long stream is cut at every byte too, but several times in one go: pieces of that size, begun at every offset."""


def parse(exchange):
    return PARSE[exchange.path](openai.decode_body(exchange.asked))


def decoder_of(exchange, request):
    return DIALECTS[FRAMEWORKS[exchange.server]].decoder(request)


def carry(exchange, request, pieces):
    """Read an answer as a connection worker does; return its bytes and how it ended."""
    parser, decoder = ResponseParser("POST"), decoder_of(exchange, request)
    happened, started = [], False
    for piece in pieces:
        body = parser.feed(piece)
        assert parser.fault is None
        if parser.head is not None and not started:
            started = True
            decoder.start(parser.head.status, parser.head.headers)
        if body:
            happened += decoder.feed(body)
        if parser.over and not ended(happened):
            happened += decoder.close()
        if ended(happened):
            return said(happened[:-1]), ending(happened[-1])
    raise AssertionError("an answer without an end")


def ended(happened):
    return bool(happened) and isinstance(happened[-1], Done | Failed)


def said(happened):
    assert all(type(event) is Raw for event in happened)
    return b"".join(event.data for event in happened)


def ending(event):
    return event if isinstance(event, Done) else (event.error.kind, event.error.param, event.error.message)


def cut(wire, cuts):
    return [wire[a:b] for a, b in pairwise([0, *cuts, len(wire)])]


def is_long(exchange):
    return exchange.streamed and len(exchange.wire) > LONG


@pytest.mark.parametrize(("server", "case"), ANSWERS)
def test_every_cut_gives_the_same_answer(server, case):
    exchange = read(server, case)
    request, wire = parse(exchange), exchange.wire
    expected = carry(exchange, request, [wire])
    assert isinstance(expected[1], Done) == (exchange.status == 200)
    size = STRIDE if is_long(exchange) else len(wire)
    for first in range(1, size):
        assert carry(exchange, request, cut(wire, range(first, len(wire), size))) == expected
    assert carry(exchange, request, cut(wire, range(1, len(wire)))) == expected


@pytest.mark.parametrize(("server", "case"), STREAMS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_cuts_give_the_same_stream(server, case, data):
    exchange = read(server, case)
    request, wire = parse(exchange), exchange.wire
    cuts = data.draw(st.lists(st.integers(1, len(wire) - 1), max_size=30, unique=True).map(sorted))
    assert carry(exchange, request, cut(wire, cuts)) == carry(exchange, request, [wire])


@pytest.mark.parametrize(("server", "case"), ANSWERS)
def test_what_breaks_off_at_any_byte_never_ends_well_and_says_nothing_else(server, case):
    """Bytes come one by one, and after each the end of the connection is tried, closed and reset, on a copy."""
    exchange = read(server, case)
    request, wire = parse(exchange), exchange.wire
    whole, _ = carry(exchange, request, [wire])
    parser, decoder, out = ResponseParser("POST"), decoder_of(exchange, request), b""
    started = False
    for at in range(len(wire) - 1):
        body = parser.feed(wire[at : at + 1])
        if parser.head is not None and not started:
            started = True
            decoder.start(parser.head.status, parser.head.headers)
        if body:
            out += said(decoder.feed(body))
        assert not parser.over
        for broken in (False, True):
            cut_off = copy(parser)
            cut_off.eof(broken=broken)
            assert cut_off.over
            assert cut_off.fault is not None
        assert whole.startswith(out)
        assert exchange.streamed or not out


@pytest.mark.parametrize(("server", "case"), STREAMS)
def test_a_stream_that_stops_without_its_end_is_a_failure(server, case):
    """As where a proxy ends the chunks properly although the server behind it has died."""
    exchange = read(server, case)
    request, body = parse(exchange), exchange.body
    head = exchange.wire.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    whole, _ = carry(exchange, request, [exchange.wire])
    last = [at for at in range(len(body)) if body.startswith(b'"finish_reason":"', at)][-1]
    complete = body.index(b"\n", last)
    for length in range(1, complete, 7 if is_long(exchange) else 1):
        out, end = carry(exchange, request, [head, b"%x\r\n%b\r\n0\r\n\r\n" % (length, body[:length])])
        assert end[0] is Kind.UPSTREAM
        assert whole.startswith(out)


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
@pytest.mark.parametrize(("server", "case"), STREAMS)
def test_line_ends_make_no_difference(server, case, end):
    exchange = read(server, case)
    request = parse(exchange)
    head = exchange.wire.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    pieces = [b": keep-alive" + 2 * end, *(piece.replace(b"\n", end) for piece in exchange.pieces if piece), b""]
    out, ended = carry(exchange, request, [head, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)])
    expected, how = carry(exchange, request, [exchange.wire])
    assert (fold(events(out)), ended) == (fold(events(expected)), how)

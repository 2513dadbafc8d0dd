"""Requests as they arrive: complete, cut anywhere, in a row, or not to be served at all."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illm.http11 import Body, End, Event, Head, MessageLimits, Refused, RequestParser
from illm.http11 import parser as parser_module
from illm.http11.engine import ENGINES, EngineFactory, find_engine
from illm.http11.framing import check_head

LIMITS = MessageLimits(head_bytes=1024, headers=16, target_bytes=256, body_bytes=100, chunk_ext_bytes=32)

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello\r\nworl"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b'5\r\nhello\r\n00a;x="y"\r\n0123\r\n6789\r\n0\r\nx-trailer: 1\r\n\r\n'
)


class Chosen:
    """The engine that the parsers of this module have behind them just now."""

    engine: EngineFactory | None = None


@pytest.fixture(scope="module", params=ENGINES, autouse=True)
def engine(request):
    """Run everything here with each of the engines."""
    if request.param != "auto":
        pytest.importorskip(request.param)
    Chosen.engine = find_engine(request.param)
    yield request.param
    Chosen.engine = None


def make_parser(limits: MessageLimits = LIMITS) -> RequestParser:
    return RequestParser(limits, Chosen.engine)


def parse(*pieces: bytes, limits: MessageLimits = LIMITS) -> list[Event]:
    """Parse a stream that arrives in pieces; answer every request at once."""
    parser = make_parser(limits)
    events: list[Event] = []
    for piece in pieces:
        fresh = parser.feed(piece)
        events += fresh
        while fresh and isinstance(fresh[-1], End):
            fresh = parser.next_request()
            events += fresh
    return events


def joined(events: list[Event]) -> list[Event]:
    """Join the pieces of bodies: where they were cut means nothing."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, Body) and out and isinstance(out[-1], Body):
            out[-1] = Body(out[-1].data + event.data)
        else:
            out.append(event)
    return out


def refusal(wire: bytes, limits: MessageLimits = LIMITS) -> int | None:
    """The status that `wire` is refused with."""
    last = parse(wire, limits=limits)[-1:]
    return last[0].status if last and isinstance(last[0], Refused) else None


def request(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"POST / HTTP/" + version, b"Host: x", *lines, b"", body])


def chunked(body: bytes, *lines: bytes) -> bytes:
    return request(b"Transfer-Encoding: chunked", *lines, body=body)


def test_a_request_without_a_body():
    assert parse(GET) == [Head("GET", b"/a?b=c", "1.1", [(b"host", b"x")], 0, True, False), End()]


def test_a_counted_body_is_not_looked_into():
    head, *rest = parse(POST)
    assert isinstance(head, Head)
    assert head.length == 11
    assert rest == [Body(b"hello\r\nworl"), End()]


def test_a_chunked_body_is_decoded_and_its_trailers_dropped():
    head, *rest = joined(parse(CHUNKED))
    assert isinstance(head, Head)
    assert head.length is None
    assert rest == [Body(b"hello0123\r\n6789"), End()]


@pytest.mark.parametrize("wire", [GET, POST, CHUNKED, POST + CHUNKED + GET, b"\r\n" + GET, POST + b"\r\n" + GET])
def test_the_events_do_not_depend_on_where_the_bytes_were_cut(wire):
    whole = joined(parse(wire))
    assert not isinstance(whole[-1], Refused)
    for cut in range(len(wire) + 1):
        assert joined(parse(wire[:cut], wire[cut:])) == whole
    assert joined(parse(*(wire[i : i + 1] for i in range(len(wire))))) == whole


def test_pipelined_requests_are_held_until_the_first_is_answered():
    parser = make_parser()
    assert [type(event) for event in parser.feed(POST + GET[:9])] == [Head, Body, End]
    assert parser.feed(GET[9:]) == []
    assert parser.buffered == len(GET)
    assert [type(event) for event in parser.next_request()] == [Head, End]
    assert parser.buffered == 0


def test_going_on_before_the_end_is_an_error_of_ours():
    parser = make_parser()
    with pytest.raises(RuntimeError):
        parser.next_request()
    parser.feed(POST[:-1])
    with pytest.raises(RuntimeError):
        parser.next_request()


def test_nothing_is_parsed_after_a_refusal():
    parser = make_parser()
    assert isinstance(parser.feed(b"GET / HTTP/1.1\nHost: x\r\n\r\n" + GET)[-1], Refused)
    assert parser.feed(GET) == []
    assert parser.buffered == 0


def test_how_much_of_a_body_is_still_to_come():
    parser = make_parser()
    parser.feed(POST[:-4])
    assert parser.unread == 4
    parser = make_parser()
    parser.feed(CHUNKED[:-4])
    assert parser.unread is None


AMBIGUOUS = {
    "bare LF ends the request line": b"GET / HTTP/1.1\nHost: x\r\n\r\n",
    "bare LF ends a field": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "bare LF ends the head": b"GET / HTTP/1.1\r\nHost: x\n\n",
    "bare LF after CRLF": b"GET / HTTP/1.1\r\nHost: x\r\n\n",
    "bare CR in a value": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
    "folded field": request(b"A: b", b" c"),
    "folded field with a tab": request(b"A: b", b"\tc"),
    "first field begins with a space": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "space before the colon": request(b"Content-Length : 3", body=b"abc"),
    "tab before the colon": request(b"Content-Length\t: 3", body=b"abc"),
    "no colon": request(b"Content-Length 3"),
    "empty name": request(b": 3"),
    "NUL in a value": request(b"A: b\0c"),
    "control character in a value": request(b"A: b\x01c"),
    "DEL in a value": request(b"A: b\x7f"),
    "NUL in a name": request(b"A\0: b"),
    "not ASCII in a name": request(b"\xc3\xa4: b"),
    "two lengths": request(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd"),
    "the same length twice": request(b"Content-Length: 3", b"content-length: 3", body=b"abc"),
    "a list of lengths": request(b"Content-Length: 3, 3", body=b"abc"),
    "a signed length": request(b"Content-Length: +3", body=b"abc"),
    "a negative length": request(b"Content-Length: -3"),
    "a hexadecimal length": request(b"Content-Length: 0x3", body=b"abc"),
    "a length with an underscore": request(b"Content-Length: 1_0"),
    "a length in other digits": request("Content-Length: ٣".encode()),
    "an empty length": request(b"Content-Length:"),
    "a length with a space in it": request(b"Content-Length: 1 1"),
    "a length of too many digits": request(b"Content-Length: 0000000000000000003", body=b"abc"),
    "length and coding": request(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "coding and length": request(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    "two codings": request(b"Transfer-Encoding: gzip, chunked"),
    "chunked not last": request(b"Transfer-Encoding: chunked, identity"),
    "identity": request(b"Transfer-Encoding: identity"),
    "coding twice": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "coding misspelt": request(b"Transfer-Encoding: xchunked"),
    "coding quoted": request(b'Transfer-Encoding: "chunked"'),
    "coding with a vertical tab": request(b"Transfer-Encoding:\x0bchunked"),
    "coding with a no-break space": request(b"Transfer-Encoding: \xa0chunked"),
    "an empty coding": request(b"Transfer-Encoding:"),
    "coding with a parameter": request(b"Transfer-Encoding: chunked;q=1"),
    "coding with a comma": request(b"Transfer-Encoding: chunked,"),
    "coding after an empty one": request(b"Transfer-Encoding: ,chunked"),
    "coding on a folded line": request(b"Transfer-Encoding:", b" chunked"),
    "coding behind a bare CR": request(b"A: b\rTransfer-Encoding: chunked"),
    "coding behind a bare LF": request(b"A: b\nTransfer-Encoding: chunked"),
    "coding with a space before the colon": request(b"Transfer-Encoding : chunked"),
    "coding with NUL": request(b"Transfer-Encoding: chunked\0"),
    "length, and coding with a space before the colon": request(
        b"Content-Length: 3", b"Transfer-Encoding : chunked", body=b"abc"
    ),
    "length, and a misspelt coding": request(b"Content-Length: 3", b"Transfer-Encoding: xchunked", body=b"abc"),
    "length behind a folded field": request(b"A: b", b" c", b"Content-Length: 3", body=b"abc"),
    "a length in quotes": request(b'Content-Length: "3"', body=b"abc"),
    "a length with a full stop": request(b"Content-Length: 3.0", body=b"abc"),
    "a length with an exponent": request(b"Content-Length: 1e1"),
    "coding in HTTP/1.0": request(b"Transfer-Encoding: chunked", version=b"1.0"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": request(b"Host: y"),
    "a host with a space": b"GET / HTTP/1.1\r\nHost: x y\r\n\r\n",
    "a host with a path": b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "a host with a user": b"GET / HTTP/1.1\r\nHost: u@x\r\n\r\n",
    "no version": b"GET /\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab for a space": b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space after the version": b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
    "a space before the method": b" GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "a fragment in the target": b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw UTF-8 in the target": "GET /ä HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "a lowercase protocol": b"GET / http/1.1\r\nHost: x\r\n\r\n",
    "a version of two digits": b"GET / HTTP/1.11\r\nHost: x\r\n\r\n",
    "two empty lines before": b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "chunk size with a sign": chunked(b"+3\r\nabc\r\n0\r\n\r\n"),
    "chunk size negative": chunked(b"-3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with 0x": chunked(b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with a space before": chunked(b" 3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with a space after": chunked(b"3 \r\nabc\r\n0\r\n\r\n"),
    "chunk size with an underscore": chunked(b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
    "chunk size of too many digits": chunked(b"0000000000000003\r\nabc\r\n0\r\n\r\n"),
    "chunk size empty": chunked(b"\r\nabc\r\n0\r\n\r\n"),
    "chunk size ended by LF": chunked(b"3\nabc\r\n0\r\n\r\n"),
    "chunk size ended by CR": chunked(b"3\rabc\r\n0\r\n\r\n"),
    "chunk extension ended by LF": chunked(b"3;a\nabc\r\n0\r\n\r\n"),
    "chunk extension with a control character": chunked(b"3;a\0\r\nabc\r\n0\r\n\r\n"),
    "chunk extension too large": chunked(b"3;" + b"a" * 40 + b"\r\nabc\r\n0\r\n\r\n"),
    "chunk extensions too large together": chunked(b"1;0123456789abcde\r\na\r\n" * 3),
    "chunk too short": chunked(b"5\r\nabc\r\n0\r\n\r\n"),
    "chunk too long": chunked(b"3\r\nabcd\r\n0\r\n\r\n"),
    "chunk ended by LF": chunked(b"3\r\nabc\n0\r\n\r\n"),
    "chunk ended by CR": chunked(b"3\r\nabc\r0\r\n\r\n"),
    "trailer folded": chunked(b"0\r\n a: b\r\n\r\n"),
    "trailer without a colon": chunked(b"0\r\nab\r\n\r\n"),
    "trailer with a bare LF": chunked(b"0\r\na: b\n\r\n\r\n"),
    "trailers ended by LF": chunked(b"0\r\n\n"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_framing_is_refused_however_it_is_cut(name):
    wire = AMBIGUOUS[name] + GET  # what smuggling would have as a second request
    assert refusal(wire) == 400
    for cut in range(1, len(wire)):
        events = parse(wire[:cut], wire[cut:])
        assert isinstance(events[-1], Refused), cut
        assert events[-1].status == 400
        assert sum(isinstance(event, Head) for event in events) <= 1


OTHER_REFUSALS = {
    "version 2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "version 1.2": (505, b"GET / HTTP/1.2\r\nHost: x\r\n\r\n"),
    "version 0.9": (505, b"GET / HTTP/0.9\r\nHost: x\r\n\r\n"),
    "CONNECT": (501, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "another expectation": (417, request(b"Expect: payment")),
    "a large body": (413, request(b"Content-Length: 101")),
    "a very large body": (413, request(b"Content-Length: 999999999999999999")),
    "a large chunked body": (413, chunked(b"40\r\n" + b"a" * 64 + b"\r\n40\r\n")),
    "a long target": (414, b"GET /" + b"a" * 300 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a long target without end": (414, b"GET /" + b"a" * 600),
    "many fields": (431, request(*[b"a: b"] * 16)),
    "a large head": (431, request(b"a: " + b"b" * 1024)),
    "a large head without end": (431, request(b"a: " + b"b" * 1024)[:-4]),
    "large trailers": (431, chunked(b"0\r\na: " + b"b" * 1024)),
}


@pytest.mark.parametrize("name", OTHER_REFUSALS)
def test_what_is_well_formed_but_not_served(name):
    status, wire = OTHER_REFUSALS[name]
    assert refusal(wire) == status


GOOD = {
    "a field value of any printable bytes": request(b"a: \xff\xe4 \t!"),
    "an empty value": request(b"a:"),
    "spaces around a value": request(b"Content-Length:  \t3 \t", body=b"abc"),
    "a case of its own": request(b"CONTENT-LENGTH: 3", body=b"abc"),
    "an empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "a host with a port": b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    "HTTP/1.0 without a host": b"GET / HTTP/1.0\r\n\r\n",
    "an unknown method": b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n",
    "a wish for another protocol": request(b"Connection: Upgrade", b"Upgrade: h2c"),
    "the same with a body": request(b"Upgrade: h2c", b"Connection: Upgrade", b"Content-Length: 3", body=b"abc"),
    "the same in chunks": chunked(b"1\r\na\r\n0\r\n\r\n", b"Connection: Upgrade", b"UPGRADE:h2c"),
    "capital chunk sizes": chunked(b"A\r\n0123456789\r\n000\r\n\r\n"),
    "a body of just the limit": request(b"Content-Length: 100", body=b"a" * 100),
    "chunks of just the limit": chunked(b"32\r\n" + b"a" * 50 + b"\r\n32\r\n" + b"b" * 50 + b"\r\n0\r\n\r\n"),
    "fields of just the limit": request(*[b"a: b"] * 15),
    "a name that only looks like framing": request(b"x-content-length: 9", b"content-length-x: 8"),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_unusual_but_right(name, engine):
    if (engine, name) == ("httptools", "an unknown method"):
        pytest.skip("httptools refuses methods that it has no number for")
    events = parse(GOOD[name], GET)
    assert sum(isinstance(event, End) for event in events) == 2


@pytest.mark.parametrize(
    ("lines", "version", "keep"),
    [
        ([], b"1.1", True),
        ([b"Connection: keep-alive"], b"1.1", True),
        ([b"Connection: Close"], b"1.1", False),
        ([b"Connection: te , CLOSE"], b"1.1", False),
        ([b"Connection: te", b"Connection: close"], b"1.1", False),
        ([b"Connection: closed"], b"1.1", True),
        ([b"Connection: keep-alive"], b"1.0", False),
    ],
)
def test_whether_the_connection_stays(lines, version, keep):
    head = parse(request(*lines, version=version))[0]
    assert isinstance(head, Head)
    assert head.keep_alive is keep


@pytest.mark.parametrize(("version", "waits"), [(b"1.1", True), (b"1.0", False)])
def test_who_waits_for_a_continue(version, waits):
    head = parse(request(b"Expect: 100-Continue", b"Content-Length: 3", version=version))[0]
    assert isinstance(head, Head)
    assert head.expect_continue is waits


_WORDS = [b"\r\n", b"\n", b"\r", b" ", b":", b"0", b"3", b";", b"a", b"\0", b"abc", b"0\r\n\r\n", b"Host: x\r\n"]
_LINES = [b"GET / HTTP/1.1\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"]
_NASTY = st.lists(st.sampled_from(_WORDS + _LINES), max_size=14).map(b"".join)
_CHUNKY = st.lists(st.sampled_from(_WORDS), max_size=12).map(lambda words: chunked(b"".join(words)))


class Honest:
    """An engine that agrees, as far as it goes."""

    def head(self, block):
        return [(b"host", b"x"), (b"content-length", b"11")]

    def body(self, data):
        return data, False


class EndsEarly(Honest):
    def body(self, data):
        return data, True


class ReadsOtherBytes(Honest):
    def body(self, data):
        return data + b"!", False


class SeesAnotherField(Honest):
    def head(self, block):
        return [*super().head(block), (b"transfer-encoding", b"chunked")]


class SeesAnotherLength(Honest):
    def head(self, block):
        return [(b"host", b"x"), (b"content-length", b"12")]


@pytest.mark.parametrize(
    ("liar", "kinds"),
    [
        (Honest, [Head, Body]),
        (EndsEarly, [Head, Body, Refused]),
        (ReadsOtherBytes, [Head, Body, Refused]),
        (SeesAnotherField, [Refused]),
        (SeesAnotherLength, [Refused]),
    ],
)
def test_where_engine_and_check_disagree_the_request_is_refused(liar, kinds):
    events = RequestParser(LIMITS, liar).feed(POST[:-1])
    assert [type(event) for event in events] == kinds


@pytest.mark.parametrize("name", [*AMBIGUOUS, *GOOD])
def test_what_came_before_on_the_connection_changes_nothing(name):
    """A head that was checked is recognised when it comes again: only when it is really the same."""
    wire = (AMBIGUOUS | GOOD)[name]
    lines = wire.partition(b"\r\n\r\n")[0].split(b"\r\n")
    like_it = b"\r\n".join(line for line in lines if not line.lower().startswith((b"content-l", b"transfer-e")))
    alone = parse(wire)
    for before in (request(b"Content-Length: 3", body=b"abc"), like_it + b"\r\nContent-Length: 3\r\n\r\nabc"):
        known = parse(before)
        if isinstance(known[-1], Refused):
            continue
        assert parse(before, wire) == known + alone
        assert parse(before, before, wire[:-1], wire[-1:])[len(known) * 2 :] == parse(wire[:-1], wire[-1:])


@pytest.mark.parametrize("value", [b"0", b"1", b"03", b"100", b" 4", b"4 ", b"\t4"])
def test_a_head_that_comes_again_with_another_length(value):
    size = int(value)
    wire = request(b"a: b", b"Content-Length: 3", b"c: d", body=b"abc")
    again = request(b"a: b", b"Content-Length: " + value, b"c: d", body=b"x" * size)
    events = parse(wire, again, wire)
    assert events[3:-3] == parse(again)
    assert events[:3] == events[-3:] == parse(wire)


def test_what_an_application_does_to_its_headers_is_not_what_the_next_request_says():
    wire = request(b"a: b", b"Content-Length: 3", body=b"abc")
    parser = make_parser()
    heads = []
    for _ in range(3):
        head, *_ = parser.feed(wire)
        heads.append(list(head.headers))
        head.headers.clear()
        parser.next_request()
    assert heads == [parse(wire)[0].headers] * 3


@pytest.mark.parametrize(
    ("value", "status"),
    [(b"101", 413), (b"9" * 18, 413), (b"9" * 19, 400), (b"", 400), (b"+4", 400), (b"4,4", 400), (b"4_0", 400),
     ("٣".encode(), 400), (b"4\r\nContent-Length: 4", 400), (b"4\r\nTransfer-Encoding: chunked", 400),
     (b"4\n", 400), (b"0x4", 400)],
)  # fmt: skip
def test_a_head_that_comes_again_with_a_length_that_cannot_be(value, status):
    wire = request(b"Content-Length: 3", b"c: d", body=b"abc")
    again = request(b"Content-Length: " + value, b"c: d", body=b"x" * 50)
    assert parse(wire, wire, again)[6:] == [Refused(status, parse(again)[-1].reason)]


def test_the_head_of_one_connection_is_not_known_to_another(monkeypatch):
    checked = []
    monkeypatch.setattr(parser_module, "check_head", lambda *args: checked.append(1) or check_head(*args))
    for _ in range(2):
        parse(POST, POST)
    assert len(checked) == (2 if Chosen.engine is None else 4)


@pytest.mark.parametrize("engine_name", ["h11", "httptools"])
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_check_reads_what_the_libraries_read(engine_name, data):
    """What the check lets pass means the same to both libraries, or the pair refuses it; never two readings."""
    pytest.importorskip(engine_name)
    wire = data.draw(_NASTY | _CHUNKY | st.sampled_from([*GOOD.values()]))
    alone = joined(RequestParser(LIMITS).feed(wire))
    both = joined(RequestParser(LIMITS, find_engine(engine_name)).feed(wire))
    assert both == alone or isinstance(both[-1], Refused)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_mixture_of_requests_survives_any_cuts(data):
    bodies = data.draw(
        st.lists(st.tuples(st.booleans(), st.lists(st.binary(min_size=1, max_size=9), max_size=4)), max_size=4)
    )
    wire = b""
    for in_chunks, pieces in bodies:
        if in_chunks:
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
            wire += chunked(chunks + b"0\r\n\r\n")
        else:
            body = b"".join(pieces)
            wire += request(b"Content-Length: %d" % len(body), body=body)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    edges = [0, *cuts, len(wire)]
    events = joined(parse(*(wire[a:b] for a, b in pairwise(edges))))
    assert [b"".join(pieces) for _, pieces in bodies if any(pieces)] == [e.data for e in events if isinstance(e, Body)]
    assert sum(isinstance(event, End) for event in events) == len(bodies)


@settings(max_examples=600, deadline=None)
@given(_NASTY | _CHUNKY, st.data())
def test_no_cut_turns_a_refusal_into_a_request(wire, data):
    whole = joined(parse(wire))
    cut = data.draw(st.integers(0, len(wire)))
    parts = joined(parse(wire[:cut], wire[cut:]))
    assert [e for e in parts if not isinstance(e, Body | Refused)] == [
        e for e in whole if not isinstance(e, Body | Refused)
    ]
    assert any(isinstance(e, Refused) for e in parts) == any(isinstance(e, Refused) for e in whole)

"""The paced stand-in without its sockets: requests from bytes, answers to bytes, and who is due when."""

import json
import math
import re

import pytest

from benchmarks.load.bodies import prepare
from benchmarks.load.plan import Plan
from benchmarks.load.responses import ResponseParser
from benchmarks.marks import find_marks, find_tag, tag_number
from benchmarks.standins import frames
from benchmarks.standins.requests import LARGE, RequestParser
from benchmarks.standins.wheel import Wheel

TAG = b"0123456789ab"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
PIPELINED = (
    POST + b"Content-Length: 4\r\n\r\nbodyGET /health HTTP/1.1\r\nConnection: close\r\n\r\n"
    + POST + b"transfer-encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"
)  # fmt: skip


def test_requests_are_read_wherever_they_are_cut():
    for cut in range(len(PIPELINED) + 1):
        parser = RequestParser()
        found = parser.feed(PIPELINED[:cut]) + parser.feed(PIPELINED[cut:])
        assert [(one.method, one.body, one.size, one.close) for one in found] == [
            (b"POST", b"body", 4, False),
            (b"GET", b"", 0, True),
            (b"POST", b"body", 4, False),
        ], cut


def test_a_large_body_keeps_its_ends_and_its_size():
    body = b"begin" + b"x" * 4 * LARGE + b"end"
    wire = POST + b"content-length: %d\r\n\r\n" % len(body) + body + b"GET / HTTP/1.1\r\n\r\n"
    parser = RequestParser()
    found = [one for at in range(0, len(wire), 10_000) for one in parser.feed(wire[at : at + 10_000])]
    large, after = found
    assert large.size == len(body)
    assert len(large.body) < len(body)
    assert large.body.startswith(b"begin")
    assert large.body.endswith(b"end")
    assert after.path == b"/"


def whole(answer):
    """Return the body of a stream's answer; token `i` is sent at 1000 + i."""
    parser = ResponseParser()
    body = b"".join([parser.feed(answer.token(index, 7, 1000 + index)) for index in range(answer.tokens)])
    assert parser.complete
    return body


def events(body):
    lines = [line for line in body.split(b"\n\n") if line]
    assert all(line.startswith(b"data: ") for line in lines)
    assert lines[-1] == b"data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def marks_of(body):
    return [(mark.index, mark.received, mark.sent, mark.tag) for mark in find_marks(body)]


@pytest.mark.parametrize("tokens", [1, 2, 3, 7])
@pytest.mark.parametrize("tools", [False, True])
def test_a_stream_is_whole_json_and_carries_every_mark(tokens, tools):
    request = b'{"model":"m","stream_options":{"include_usage":true}%s}' % (b',"tools":[{}]' if tools else b"")
    body = whole(frames.openai_stream(request, TAG, tokens, 5, 99))
    assert marks_of(body) == [(index, 7, 1000 + index, TAG) for index in range(tokens)]
    *chunks, usage = events(body)
    assert {chunk["model"] for chunk in chunks} == {"m"}
    assert usage["usage"] == {"prompt_tokens": 99, "completion_tokens": tokens, "total_tokens": 99 + tokens}
    assert chunks[-1]["choices"][0]["finish_reason"] == ("tool_calls" if tools else "stop")


def test_a_stream_with_tools_has_three_parts():
    body = whole(frames.openai_stream(b'{"tools": [{}]}', TAG, 6, 0, 1))
    deltas = [chunk["choices"][0]["delta"] for chunk in events(body)]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call.get("id") for call in calls] == ["call-0123456789ab", None, None, None]
    arguments = json.loads("".join(call["function"]["arguments"] for call in calls))
    assert [mark[0] for mark in marks_of(arguments["q"].encode())] == [4, 5]
    assert sum("reasoning" in delta for delta in deltas) == 2


def test_ollama_s_stream_is_a_line_an_object():
    body = whole(frames.ollama_stream(b'{"model":"m"}', TAG, 3, 5, 99))
    lines = [json.loads(line) for line in body.splitlines()]
    assert [line["done"] for line in lines] == [False, False, False, True]
    assert lines[-1]["prompt_eval_count"] == 99
    assert [index for index, *_ in marks_of(body)] == [0, 1, 2]


@pytest.mark.parametrize("answer", [frames.openai_answer, frames.ollama_answer])
def test_a_whole_answer_has_one_mark(answer):
    body = answer(b'{"model":"m"}', TAG, 5, 99, 7, 1000)
    assert json.loads(body)["model"] == "m"
    assert marks_of(body) == [(0, 7, 1000, TAG)]


@pytest.mark.parametrize("packed", [False, True])
def test_embeddings_echo_the_tag_as_a_count(packed):
    answer = json.loads(frames.embeddings_answer(3, 4, packed)(TAG))
    assert [row["index"] for row in answer["data"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] == tag_number(TAG)
    assert isinstance(answer["data"][0]["embedding"], str if packed else list)


def test_what_is_due_comes_in_order_and_once():
    wheel = Wheel()
    for tick in (5, 3, 900, 3):
        wheel.add(tick, tick)
    assert [wheel.due(tick) for tick in (2, 3, 4, 899)] == [[], [3, 3], [], [5]]
    wheel.add(1, "late")
    assert wheel.due(900) == [900, "late"]
    assert not wheel


def test_what_is_due_is_the_same_however_seldom_it_is_asked():
    for step in (1, 2, 7, 40):
        wheel, found = Wheel(), []
        for tick in (1, 8, 9, 33):
            wheel.add(tick, tick)
        for tick in range(step, 80, step):
            found += wheel.due(tick)
        assert found == [1, 8, 9, 33]


@pytest.mark.parametrize("shape", ["chat", "stream", "prompt", "image", "embeddings", "embeddings-base64", "tools"])
def test_every_request_is_its_own_and_says_its_tag(shape):
    bodies = prepare(Plan("http://h:1", "m", {"x-key": "k"}, shape=shape, bodies=3))
    assert len({body.wire for body in bodies}) == 3
    for body in bodies:
        (request,) = RequestParser().feed(body.wire)
        assert (request.size, find_tag(request.body)) == (body.size, body.tag)
        assert json.loads(request.body)["model"] == "m"
        assert re.search(rb"\r\nx-key: k\r\n", body.wire)


@pytest.mark.parametrize(("shape", "size"), [("prompt", 1e5), ("image", 1.4e6)])
def test_large_requests_are_as_large_as_they_say(shape, size):
    assert math.isclose(prepare(Plan("http://h:1", "m", shape=shape, bodies=1))[0].size, size, rel_tol=0.1)

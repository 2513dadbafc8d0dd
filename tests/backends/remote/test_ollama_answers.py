"""Ollama's answers, from bytes to events: wherever they are cut, whatever is left out of them, however they fail."""

from array import array
from itertools import count, pairwise
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.backends.remote.ollama import OllamaDialect
from illm.backends.remote.ollama_answers import OllamaDecoder
from illm.core.events import Delta, Done, Failed, Finish, Logprob, Reasoning, ToolDelta, Usage, Vectors
from illm.core.requests import Embed, Transcribe
from illm.dialects.openai import parse_chat, parse_completion
from illm.errors import Kind

WIRE = Path(__file__).parents[2] / "wire" / "sglang"
CHAT = parse_chat({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
COMPLETION = parse_completion({"model": "m", "prompt": "Once"})
END = {"done": True, "done_reason": "stop", "prompt_eval_count": 12, "eval_count": 3}


def says(content="", **more):
    return {"message": {"role": "assistant", "content": content, **more}, "done": False}


def wire(*lines):
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def decode(*pieces, request=CHAT, status=200, headers=None):
    numbers = count(1)
    decoder = OllamaDecoder(request, lambda: f"made_{next(numbers)}")
    decoder.start(status, headers or {})
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return [*events, *decoder.close()]


def failure(*pieces, **how):
    *before, last = decode(*pieces, **how)
    assert isinstance(last, Failed), last
    return before, last.error


ANSWER = wire(
    says(thinking="Hm 🤔"),
    says("né"),
    says("😀 "),
    says(tool_calls=[{"function": {"name": "f", "arguments": {"ä": 1}}}]),
    says() | END,
)
EVENTS = [
    Reasoning(0, "Hm 🤔"),
    Delta(0, "né", 1),
    Delta(0, "😀 ", 1),
    ToolDelta(0, 0, id="made_1", name="f"),
    ToolDelta(0, 0, '{"ä":1}'),
    Finish(0, "tool_calls"),
    Done(Usage(12, 3)),
]


@pytest.mark.parametrize("cut", range(len(ANSWER) + 1))
def test_every_cut_gives_the_same_events(cut):
    assert decode(ANSWER[:cut], ANSWER[cut:]) == EVENTS


@given(st.lists(st.integers(0, len(ANSWER))))
def test_any_cuts_give_the_same_events(cuts):
    edges = [0, *sorted(cuts), len(ANSWER)]
    assert decode(*(ANSWER[a:b] for a, b in pairwise(edges))) == EVENTS


@given(st.integers(0, len(ANSWER) - 2))
def test_every_truncation_is_a_failure(length):
    before, error = failure(ANSWER[:length])
    assert error.kind is Kind.UPSTREAM
    assert before == EVENTS[: len(before)]
    assert not any(isinstance(event, Done) for event in before)


@given(st.integers(0, len(ANSWER) - 1), st.integers(0, 255))
def test_no_damaged_byte_raises(at, byte):
    events = decode(ANSWER[:at] + bytes([byte]) + ANSWER[at + 1 :])
    assert isinstance(events[-1], Done | Failed)
    assert not any(isinstance(event, Done | Failed) for event in events[:-1])


def test_one_object_without_a_newline_is_an_answer_too():
    assert decode(orjson.dumps(says("Hello") | END)) == [Delta(0, "Hello", 1), Finish(0, "stop"), Done(Usage(12, 3))]


def test_zero_counters_are_left_out_there_and_zero_here():
    assert decode(wire({"message": {}, "done": True, "done_reason": "length"})) == [
        Finish(0, "length"),
        Done(Usage(0, 0)),
    ]


def test_length_stays_length_whatever_was_called():
    call = {"id": "x", "function": {"name": "f", "arguments": {}}}
    events = decode(wire(says(tool_calls=[call]), says() | END | {"done_reason": "length"}))
    assert events[-2] == Finish(0, "length")


def test_nothing_follows_the_end():
    assert decode(wire(END | says() | END, says("more"), {"error": "late"}))[-1] == Done(Usage(12, 3))


@pytest.mark.parametrize("reason", [None, "", "load", "unload", "whatever", 7])
def test_an_end_without_a_reason_is_a_failure(reason):
    before, error = failure(wire(says("Hello"), says() | END | {"done_reason": reason}))
    assert before == [Delta(0, "Hello", 1)]
    assert error.kind is Kind.UPSTREAM


def test_calls_are_numbered_and_named_anew_where_needed():
    history = [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "old", "type": "function", "function": {"name": "f", "arguments": ""}}],
        },
    ]
    request = parse_chat({"model": "m", "messages": history})
    calls = [
        {"id": "new", "function": {"index": 0, "name": "a", "arguments": {}}},
        {"id": "old", "function": {"index": 0, "name": "b", "arguments": None}},
        {"id": "new", "function": {"index": 0, "name": "c", "arguments": '{"x":1}'}},
        {"id": "", "function": {"name": "d"}},
    ]
    events = decode(wire(says(tool_calls=calls[:2]), says(tool_calls=calls[2:]), says() | END), request=request)
    heads = [(event.call, event.id, event.name) for event in events if isinstance(event, ToolDelta) and event.id]
    assert heads == [(0, "new", "a"), (1, "made_1", "b"), (2, "made_2", "c"), (3, "made_3", "d")]
    texts = [event.arguments for event in events if isinstance(event, ToolDelta) and not event.id]
    assert texts == ["{}", "{}", '{"x":1}', "{}"]


def test_only_the_first_call_where_one_was_asked_for():
    request = parse_chat({"model": "m", "messages": [{"role": "user", "content": "hi"}], "parallel_tool_calls": False})
    calls = [{"id": name, "function": {"name": name, "arguments": {}}} for name in "ab"]
    events = decode(wire(says(tool_calls=calls), says() | END), request=request)
    assert {event.call for event in events if isinstance(event, ToolDelta)} == {0}
    assert events[-2] == Finish(0, "tool_calls")


def test_logprobs():
    one = {
        "token": "né",
        "logprob": -0.5,
        "bytes": [110, 195, 169],
        "top_logprobs": [{"token": "x", "logprob": None}, {"token": "y", "logprob": -1e30, "bytes": None}],
    }
    events = decode(wire(says("né") | {"logprobs": [one]}, says() | {"logprobs": [one]} | END))
    logprob = Logprob("né", -0.5, "né".encode(), (Logprob("x", -9999.0), Logprob("y", -9999.0)))
    assert events[:2] == [Delta(0, "né", 1, (logprob,)), Delta(0, "", 1, (logprob,))]


def test_a_completion_has_its_own_field_and_no_reasoning():
    lines = wire({"response": "", "thinking": "hm", "done": False}, {"response": " upon"}, {"response": ""} | END)
    assert decode(lines, request=COMPLETION) == [Delta(0, " upon", 1), Finish(0, "stop"), Done(Usage(12, 3))]


def test_an_echo_comes_first_and_only_with_an_answer():
    request = parse_completion({"model": "m", "prompt": "Once", "echo": True})
    events = decode(wire({"response": " upon"}, {"response": ""} | END), request=request)
    assert events[:2] == [Delta(0, "Once"), Delta(0, " upon", 1)]
    before, _ = failure(wire({"error": "broken"}), request=request)
    assert before == []


@pytest.mark.parametrize(
    "line",
    [
        b"[]\n",
        b"null\n",
        b"data: {}\n",
        b"<html>\n",
        wire({"message": "text"}),
        wire(says(7)),
        wire(says(tool_calls=["f"])),
        wire(says(tool_calls=[{"function": {"arguments": {}}}])),
        wire(says("x") | {"logprobs": [{"token": "x"}]}),
        wire(says("x") | {"logprobs": [{"token": "x", "logprob": -1, "bytes": [999]}]}),
    ],
)
def test_nonsense_is_one_failure(line):
    before, error = failure(wire(says("Hello")), line, wire(says("never")), wire(says() | END))
    assert before == [Delta(0, "Hello", 1)]
    assert error.kind is Kind.UPSTREAM


ERRORS = [
    (404, {"error": "model 'm' not found"}, Kind.MODEL_NOT_FOUND, "model"),
    (404, {"error": 'model "m" not found, try pulling it first'}, Kind.MODEL_NOT_FOUND, "model"),
    (404, b"404 page not found", Kind.CAPABILITY, None),
    (400, {"error": "the input length exceeds the context length"}, Kind.CONTEXT_LENGTH, "messages"),
    (500, {"error": "input exceeds maximum context length"}, Kind.CONTEXT_LENGTH, "messages"),
    (500, {"error": 'option "num_ctx" must be of type integer'}, Kind.INVALID_REQUEST, "options.num_ctx"),
    (400, {"error": "invalid think value: 'x'"}, Kind.INVALID_REQUEST, "reasoning_effort"),
    (400, {"error": '"m" does not support thinking'}, Kind.UNSUPPORTED_PARAMETER, "reasoning_effort"),
    (400, {"error": '"m" does not support chat'}, Kind.CAPABILITY, "model"),
    (400, {"error": "registry.ollama.ai/library/m:latest does not support tools"}, Kind.CAPABILITY, "tools"),
    (400, {"error": "registry.ollama.ai/library/m:latest does not support insert"}, Kind.CAPABILITY, "suffix"),
    (500, {"error": "image input is not supported - provide the mmproj"}, Kind.CAPABILITY, "messages"),
    (400, {"error": "invalid model name"}, Kind.INVALID_REQUEST, "model"),
    (400, {"error": "json: cannot unmarshal string"}, Kind.INVALID_REQUEST, None),
    (401, {"error": "unauthorized"}, Kind.UPSTREAM, None),
    (403, {"error": "cloud models disabled: does not support tools"}, Kind.UPSTREAM, None),
    (413, b"", Kind.TOO_LARGE, None),
    (499, {"error": "request canceled"}, Kind.UPSTREAM, None),
    (500, {"error": 'Post "http://127.0.0.1:40113/completion": EOF'}, Kind.UPSTREAM, None),
    (500, b"Internal Server Error", Kind.UPSTREAM, None),
    (502, b"<html>bad gateway</html>", Kind.UPSTREAM, None),
    (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, Kind.OVERLOADED, None),
    (301, b"", Kind.UPSTREAM, None),
]


@pytest.mark.parametrize(("status", "body", "kind", "param"), ERRORS)
def test_errors_by_status(status, body, kind, param):
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    before, error = failure(data[:7], data[7:], status=status)
    assert before == []
    assert (error.kind, error.param) == (kind, param)
    for secret in ("127.0.0.1", "40113", "registry.ollama", "<html"):
        assert secret not in error.message


def test_an_overloaded_server_s_own_patience_is_passed_on():
    _, error = failure(b'{"error":"server busy"}', status=503, headers={b"retry-after": b"7"})
    assert (error.kind, error.retry_after) == (Kind.OVERLOADED, 7)


@pytest.mark.parametrize("line", [{"error": "model runner has unexpectedly stopped"}, {"error": {"message": "x"}}])
def test_an_error_line_ends_the_answer(line):
    before, error = failure(wire(says("Hello"), line, says("never"), says() | END))
    assert before == [Delta(0, "Hello", 1)]
    assert error.kind is Kind.UPSTREAM


def test_an_error_line_is_read_like_any_error():
    _, error = failure(wire({"error": "prompt is too long"}), request=COMPLETION)
    assert (error.kind, error.param) == (Kind.CONTEXT_LENGTH, "prompt")


def test_vectors_are_packed_and_counted():
    body = orjson.dumps({"embeddings": [[0.6, 0.8], [1, 0]], "prompt_eval_count": 5})
    rows = (array("f", [0.6, 0.8]).tobytes(), array("f", [1, 0]).tobytes())
    for cut in range(len(body)):
        events = decode(body[:cut], body[cut:], request=Embed(inputs=("a", "b")))
        assert events == [Vectors(rows), Done(Usage(5))]


@pytest.mark.parametrize(
    "body",
    [
        {"embeddings": [[1.0]]},
        {"embeddings": [[1.0], []]},
        {"embeddings": [[1.0], ["x"]]},
        {"embeddings": [[1.0], None]},
        {"embeddings": [[1.0], [1e300]]},
        {"embedding": [1.0]},
        {"error": "broken"},
        [],
    ],
)
def test_embeddings_that_make_no_sense(body):
    before, error = failure(orjson.dumps(body), request=Embed(inputs=("a", "b")))
    assert before == []
    assert error.kind is Kind.UPSTREAM


def test_a_transcript_in_the_client_s_format():
    for word, body in (("json", b'{"text":"h\xc3\xa9"}'), ("text", "hé".encode())):
        request = Transcribe(audio=b"x", fields={"response_format": word})
        raw, done = decode(b'{"text":', '"hé"}'.encode(), request=request)
        assert raw.data.strip().startswith(body.rstrip(b"}"))
        assert done == Done(Usage())
    assert failure(b'{"text":null}', request=Transcribe(audio=b"x"))[1].kind is Kind.UPSTREAM
    _, error = failure(b'{"error":{"message":"model \'m\' not found"}}', status=404, request=Transcribe(audio=b"x"))
    assert error.kind is Kind.MODEL_NOT_FOUND


def recorded(case):
    head, _, body = (WIRE / f"{case}.resp").read_bytes().partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    return int(status.split()[1]), headers, body


def test_sglang_s_chat_as_recorded_cut_everywhere():
    status, headers, body = recorded("ollama_chat")
    for cut in range(len(body) + 1):
        before, error = failure(body[:cut], body[cut:], status=status, headers=headers)
        assert before == []
        assert error.kind is Kind.UPSTREAM
        assert "Internal Server Error" in error.message


def test_sglang_s_other_answers_as_recorded():
    assert OllamaDialect().models(recorded("get_api_tags")[2]) == ("gemma",)
    assert recorded("get_")[0] == 200, "the probe's path is there as well"
    status, headers, body = recorded("get_api_version")
    assert failure(body, status=status, headers=headers)[1].kind is Kind.CAPABILITY

"""TGI's answers repaired: cut at every byte they come out the same, and none that breaks off looks complete."""

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.backends.remote.tgi import TGI
from illm.core.events import Delta, Done, Failed, Finish, Logprob, ToolDelta, Usage
from illm.core.requests import Chat, Completion, Message, Sampling, Text, ToolChoice
from illm.errors import Kind


def chat(*, stream=True, stop=(), logprobs=None, include_usage=False, choice=None):
    return Chat(
        messages=(Message("user", (Text("hi"),)),),
        sampling=Sampling(stop=stop, logprobs=logprobs),
        stream=stream,
        include_usage=include_usage,
        tool_choice=choice,
    )


def completion(*, stream=True, stop=(), logprobs=None, echo=False, include_usage=False):
    sampling = Sampling(stop=stop, logprobs=logprobs)
    return Completion(prompts=("Say:",), sampling=sampling, stream=stream, echo=echo, include_usage=include_usage)


def frame(value) -> bytes:
    return b"data:%s\n\n" % orjson.dumps(value)


END = b"data: [DONE]\n\n"


def chunk(delta=None, reason=None, usage=None, logprobs=None, choices=None):
    choice = {
        "index": 0,
        "delta": {"role": "assistant", "content": ""} if delta is None else {"role": "assistant", **delta},
        "logprobs": logprobs,
        "finish_reason": reason,
    }
    return frame(
        {
            "object": "chat.completion.chunk",
            "id": "",
            "created": 1,
            "model": "m",
            "system_fingerprint": "3.3.7-native",
            "choices": [choice] if choices is None else choices,
            "usage": usage,
        }
    )


def says(text):
    return chunk({"content": text})


COUNTS = chunk(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13})
COUNTED = Done(Usage(9, 4))


def calls(name=None, arguments="", index=0):
    function = {"name": name, "arguments": arguments}
    return chunk({"tool_calls": [{"index": index, "id": "0", "type": "function", "function": function}]})


def token(index, text, *, special=False, logprob=-0.5, final=None, top=None, reason="eos_token", seed=None):
    event = {
        "index": index,
        "token": {"id": 7, "text": text, "logprob": logprob, "special": special},
        "generated_text": final,
        "details": None,
    }
    if final is not None:
        event["details"] = {"finish_reason": reason, "generated_tokens": index, "seed": seed, "input_length": 5}
    if top is not None:
        event["top_tokens"] = [{"id": 7, "text": other, "logprob": -1.5, "special": False} for other in top]
    return frame(event)


def read(request, *pieces: bytes, status=200, headers=None):
    decoder = TGI().decoder(request)
    decoder.start(status, headers or {})
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return normal(events + list(decoder.close()))


def anonymous(logprob: Logprob) -> Logprob:
    return replace(logprob, id=None, top=tuple(map(anonymous, logprob.top)))


def normal(events):
    """Join neighbours, as a reader of the reply may find them, and forget ids, which are random."""
    joined = []
    for event in events:
        last = joined[-1] if joined else None
        match event:
            case Delta(text="", logprobs=()):
                continue
            case Delta():
                event = Delta(event.index, event.text, 0, tuple(map(anonymous, event.logprobs)))
                if isinstance(last, Delta):
                    joined[-1] = Delta(0, last.text + event.text, 0, last.logprobs + event.logprobs)
                    continue
            case Finish():
                event = Finish(event.index, event.reason)
            case ToolDelta(id=str() as given):
                assert given == "ID" or given.startswith("call_")
                event = ToolDelta(event.index, event.call, event.arguments, "ID", event.name)
            case ToolDelta() if isinstance(last, ToolDelta) and last.call == event.call:
                joined[-1] = ToolDelta(0, last.call, last.arguments + event.arguments, last.id, last.name)
                continue
        joined.append(event)
    return joined


def failure(events) -> Kind:
    assert isinstance(events[-1], Failed)
    assert sum(isinstance(event, Failed | Done) for event in events) == 1
    return events[-1].error.kind


STREAMS = {
    "plain": (
        chat(),
        says("Bl") + says("ué 🙂") + chunk(reason="stop") + COUNTS + END,
        [Delta(0, "Blué 🙂"), Finish(0, "stop"), COUNTED],
    ),
    "length": (chat(), says("Bl") + chunk({"content": "ue"}, "length") + COUNTS + END,
        [Delta(0, "Blue"), Finish(0, "length"), COUNTED],
    ),
    "a stop string, kept in the text": (
        chat(stop=("\n\n",)),
        says("Blue") + says("\n") + chunk({"content": "\n"}, "stop_sequence") + COUNTS + END,
        [Delta(0, "Blue"), Finish(0, "stop"), COUNTED],
    ),
    "half a stop string at the end": (
        chat(stop=("\n\n",)),
        says("Blue") + says("\n") + chunk(reason="stop") + COUNTS + END,
        [Delta(0, "Blue\n"), Finish(0, "stop"), COUNTED],
    ),
    "a tool call, which ends without a reason": (
        chat(),
        calls("f", '{"a":') + calls(None, "1}") + COUNTS + END,
        [ToolDelta(0, 0, '{"a":1}', "ID", "f"), Finish(0, "tool_calls"), COUNTED],
    ),
    "a tool call without arguments": (
        chat(),
        calls("f") + COUNTS + END,
        [ToolDelta(0, 0, "{}", "ID", "f"), Finish(0, "tool_calls"), COUNTED],
    ),
    "a tool call that says stop": (
        chat(),
        calls("f", "{}") + chunk({"tool_calls": []}, "stop") + COUNTS + END,
        [ToolDelta(0, 0, "{}", "ID", "f"), Finish(0, "tool_calls"), COUNTED],
    ),
    "a tool call cut short": (
        chat(),
        calls("f", '{"a') + chunk({"tool_calls": []}, "length") + COUNTS + END,
        [ToolDelta(0, 0, '{"a', "ID", "f"), Finish(0, "length"), COUNTED],
    ),
    "a tool that the client named": (
        chat(choice=ToolChoice("named", "f")),
        calls("f", "{}") + COUNTS + END,
        [ToolDelta(0, 0, "{}", "ID", "f"), Finish(0, "stop"), COUNTED],
    ),
    "keep-alives, and an end without [DONE]": (
        chat(),
        b":\n\n" + says("Blue") + b":\n\n" + chunk(reason="stop"),
        [Delta(0, "Blue"), Finish(0, "stop"), Done(Usage(0, 2))],
    ),
    "native": (
        completion(),
        token(1, " Bl") + token(2, "ué") + token(3, "</s>", special=True, final=" Blué"),
        [Delta(0, " Blué"), Finish(0, "stop"), Done(Usage(5, 3))],
    ),
    "native, length": (
        completion(),
        token(1, " Bl") + token(2, "ue", final=" Blue", reason="length"),
        [Delta(0, " Blue"), Finish(0, "length"), Done(Usage(5, 2))],
    ),
    "native, a stop string over two tokens": (
        completion(stop=("END",)),
        token(1, "Blue E") + token(2, "ND", final="Blue END", reason="stop_sequence"),
        [Delta(0, "Blue "), Finish(0, "stop"), Done(Usage(5, 2))],
    ),
    "native, echo": (
        completion(echo=True),
        token(1, " Blue", final=" Blue", reason="length"),
        [Delta(0, "Say: Blue"), Finish(0, "length"), Done(Usage(5, 1))],
    ),
    "native, log-probabilities": (
        completion(logprobs=1, stop=("END",)),
        token(1, " Blue", top=[" Blue"])
        + token(2, "é", top=["e"])
        + token(3, "</s>", special=True, final=" Blueé", top=["</s>"]),
        [
            Delta(
                0,
                " Blueé",
                0,
                (
                    Logprob(" Blue", -0.5, b" Blue", (Logprob(" Blue", -1.5, b" Blue"),)),
                    Logprob("é", -0.5, None, (Logprob("e", -1.5, b"e"),)),
                ),
            ),
            Finish(0, "stop"),
            Done(Usage(5, 3)),
        ],
    ),
    "native, log-probabilities stop with the text": (
        completion(logprobs=0, stop=(" END",)),
        token(1, "Blue") + token(2, " E") + token(3, "ND", final="Blue END", reason="stop_sequence"),
        [Delta(0, "Blue", 0, (Logprob("Blue", -0.5, b"Blue"),)), Finish(0, "stop"), Done(Usage(5, 3))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_repaired(name):
    request, wire, expected = STREAMS[name]
    assert read(request, wire) == normal(expected)


@pytest.mark.parametrize("name", STREAMS)
def test_it_does_not_matter_where_a_stream_was_cut(name):
    request, wire, expected = STREAMS[name]
    for cut in range(len(wire) + 1):
        assert read(request, wire[:cut], wire[cut:]) == normal(expected), cut
    assert read(request, *(wire[at : at + 1] for at in range(len(wire)))) == normal(expected)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("ending", [b"\r\n", b"\r"])
def test_lines_may_end_as_they_like(name, ending):
    request, wire, expected = STREAMS[name]
    assert read(request, wire.replace(b"\n", ending)) == normal(expected)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_breaks_off_is_never_complete(name):
    """Cut short anywhere before its last word, it is a failure, or it had said everything already."""
    request, wire, expected = STREAMS[name]
    for cut in range(len(wire)):
        events = read(request, wire[:cut])
        if isinstance(events[-1], Failed):
            assert failure(events) is Kind.UPSTREAM
        else:
            assert events[:-1] == normal(expected)[:-1]
            assert isinstance(events[-1], Done)


STOPS = "`stop` supports up to 4 stop sequences. Given: 5"
HEAT = "`temperature` must be strictly positive"

ERRORS = {
    "validation in a chat": (
        {"error": {"message": f"Input validation error: {HEAT}", "http_status_code": 422}},
        Kind.INVALID_REQUEST,
        "temperature",
    ),
    "overload in a chat": (
        {"error": {"message": "Model is overloaded", "http_status_code": 422}},
        Kind.OVERLOADED,
        None,
    ),
    "generation in a chat": (
        {"error": {"message": "Request failed during generation: CUDA error", "http_status_code": 422}},
        Kind.UPSTREAM,
        None,
    ),
    "incomplete": ({"error": "Incomplete generation", "error_type": "incomplete_generation"}, Kind.UPSTREAM, None),
    "native validation": (
        {"error": f"Input validation error: {STOPS}", "error_type": "validation"},
        Kind.INVALID_REQUEST,
        "stop",
    ),
    "native context": (
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 512. Given: 500 `inputs` "
            "tokens and 100 `max_new_tokens`",
            "error_type": "validation",
        },
        Kind.CONTEXT_LENGTH,
        "input",
    ),
    "native generation": (
        {"error": "Request failed during generation: x", "error_type": "generation"},
        Kind.UPSTREAM,
        None,
    ),
    "native overload": ({"error": "Model is overloaded", "error_type": "overloaded"}, Kind.OVERLOADED, None),
    "tools": ({"error": "Tool error: no such tool", "error_type": "tool_error"}, Kind.INVALID_REQUEST, "tools"),
    "template": (
        {"error": "Template error: roles must alternate", "error_type": "template_error"},
        Kind.INVALID_REQUEST,
        None,
    ),
    "image": (
        {"error": "Input validation error: invalid image: bad", "error_type": "validation"},
        Kind.INVALID_REQUEST,
        "input",
    ),
    "unhealthy": ({"error": "unhealthy", "error_type": "healthcheck"}, Kind.UNREACHABLE, None),
}  # fmt: skip


@pytest.mark.parametrize("request_", [chat(), completion()], ids=["chat", "completion"])
@pytest.mark.parametrize("name", ERRORS)
def test_errors_under_status_200_become_failures_of_their_kind(name, request_):
    body, kind, param = ERRORS[name]
    for wire in (frame(body), frame(body) + END):
        for cut in range(len(wire)):
            events = read(request_, wire[:cut], wire[cut:])
            assert failure(events) is kind
            [failed] = events
            assert failed.error.param == (
                {Chat: "messages", Completion: "prompt"}[type(request_)] if param == "input" else param
            )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ERRORS)
def test_errors_with_a_status_too(name, stream):
    body, kind, _ = ERRORS[name]
    status = {Kind.OVERLOADED: 429, Kind.UPSTREAM: 424, Kind.UNREACHABLE: 503}.get(kind, 422)
    for request in (chat(stream=stream), completion(stream=stream)):
        assert failure(read(request, orjson.dumps(body), status=status)) is kind
        # and as a whole body under 200, where an answer was expected
        answer = read(request, orjson.dumps(body), headers={b"content-type": b"application/json"})
        assert failure(answer) is kind


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (422, b"Failed to deserialize the JSON body into the target type: x at line 1", Kind.INVALID_REQUEST),
        (400, b"Failed to parse the request body as JSON", Kind.INVALID_REQUEST),
        (413, b"length limit exceeded", Kind.TOO_LARGE),
        (401, b"", Kind.UPSTREAM),
        (404, b"", Kind.CAPABILITY),
        (500, b"<html>oops</html>", Kind.UPSTREAM),
        (502, b"", Kind.UPSTREAM),
        (503, b"", Kind.UNREACHABLE),
        (429, b"", Kind.OVERLOADED),
    ],
)
def test_errors_that_are_no_json(status, body, kind):
    [failed] = read(chat(), body, status=status)
    assert failed.error.kind is kind
    assert failed.error.message


def test_overload_has_a_time_to_come_back():
    body = orjson.dumps({"error": "Model is overloaded", "error_type": "overloaded"})
    assert read(chat(), body, status=429)[0].error.retry_after == 1
    assert read(chat(), body, status=429, headers={b"retry-after": b"7"})[0].error.retry_after == 7


def test_an_error_in_the_middle_follows_what_was_said():
    wire = says("Bl") + frame({"error": {"message": "Request failed during generation: x", "http_status_code": 422}})
    events = read(chat(), wire)
    assert events[0] == Delta(0, "Bl")
    assert failure(events) is Kind.UPSTREAM


@pytest.mark.parametrize(
    "wire",
    [
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"choices":5}\n\n',
        b'data: {"token":{"id":"x"},"choices":{}}\n\n',
        b"data: \xff\n\n",
        b"{}",
        b"",
    ],
)
@pytest.mark.parametrize("request_", [chat(), completion(), chat(stream=False), completion(stream=False)])
def test_nonsense_is_a_failure(wire, request_):
    assert failure(read(request_, wire)) is Kind.UPSTREAM


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(data):
    for request in (chat(), completion(), chat(stream=False), completion(stream=False)):
        assert isinstance(read(request, b"data:" + data, b"\n\n")[-1], Failed)


def test_a_stop_string_that_upstream_overlooked_ends_the_answer():
    """It looks at the end of tokens only, and goes on after this one."""
    decoder = TGI().decoder(completion(stop=("\n",)))
    decoder.start(200, {})
    assert normal(decoder.feed(token(1, "Blue") + token(2, "\n   "))) == [Delta(0, "Blue"), Finish(0, "stop")]
    assert decoder.feed(token(3, "more")) == [Done(Usage(0, 3))]
    assert decoder.feed(token(4, "and more")) == []
    decoder = TGI().decoder(chat(stop=("\n",)))
    decoder.start(200, {})
    assert normal(decoder.feed(says("Blue") + says("\n   "))) == [Delta(0, "Blue"), Finish(0, "stop")]
    assert decoder.feed(says("more")) == [Done(Usage(0, 2))]


def test_whoever_wants_the_counts_waits_for_them():
    wire = token(1, "Blue") + token(2, "\n   ") + token(3, "more", final="Blue\n   more", reason="length")
    events = read(completion(stop=("\n",), include_usage=True), wire)
    assert events == [Delta(0, "Blue"), Finish(0, "stop"), Done(Usage(5, 3))]


def whole(message, reason="stop", logprobs=None):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "logprobs": logprobs, "finish_reason": reason}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return orjson.dumps({"object": "chat.completion", "id": "", "created": 1, "choices": [choice], "usage": usage})


def call(arguments):
    return {"id": "0", "type": "function", "function": {"description": None, "name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    ("request_", "body", "expected"),
    [
        (chat(stream=False), whole({"content": "Blue"}), [Delta(0, "Blue"), Finish(0, "stop")]),
        (chat(stream=False), whole({"content": "Bl"}, "length"), [Delta(0, "Bl"), Finish(0, "length")]),
        (
            chat(stream=False, stop=("END",)),
            whole({"content": "Blue END"}, "stop_sequence"),
            [Delta(0, "Blue "), Finish(0, "stop")],
        ),
        (
            chat(stream=False, stop=("\n",)),
            whole({"content": "Blue\n  and more"}, "length"),
            [Delta(0, "Blue"), Finish(0, "stop")],
        ),
        (
            chat(stream=False),
            whole({"tool_calls": [call('{"a":1}')]}),
            [ToolDelta(0, 0, '{"a":1}', "ID", "f"), Finish(0, "tool_calls")],
        ),
        (
            chat(stream=False),
            whole({"tool_calls": [call({"a": 1})]}, "length"),
            [ToolDelta(0, 0, '{"a":1}', "ID", "f"), Finish(0, "length")],
        ),
        (
            chat(stream=False),
            whole({"tool_calls": [call("")]}),
            [ToolDelta(0, 0, "{}", "ID", "f"), Finish(0, "tool_calls")],
        ),
        (chat(stream=False), whole({"content": ""}), [Finish(0, "stop")]),
        (
            chat(stream=False, logprobs=0),
            whole(
                {"content": "Blue"},
                logprobs={
                    "content": [
                        {"token": "Bl", "logprob": -0.5, "top_logprobs": []},
                        {"token": "ue", "logprob": None, "top_logprobs": []},
                        {"token": "</s>", "logprob": -0.5, "top_logprobs": []},
                    ]
                },
            ),
            [Delta(0, "Blue", 0, (Logprob("Bl", -0.5, b"Bl"), Logprob("ue", -9999.0, b"ue"))), Finish(0, "stop")],
        ),
    ],
)
def test_whole_chats_are_repaired(request_, body, expected):
    for cut in range(len(body) + 1):
        assert read(request_, body[:cut], body[cut:]) == [*expected, COUNTED]
    assert failure(read(request_, body[:-1])) is Kind.UPSTREAM


HEADERS = {b"x-prompt-tokens": b"5", b"x-generated-tokens": b"3"}


def generated(text, reason="eos_token", tokens=(), **more):
    items = [{"id": 1, "text": one, "logprob": -0.5, "special": one == "</s>"} for one in tokens]
    details = {"finish_reason": reason, "generated_tokens": 3, "seed": None, "prefill": [], "tokens": items, **more}
    return orjson.dumps({"generated_text": text, "details": details})


@pytest.mark.parametrize(
    ("request_", "body", "expected"),
    [
        (completion(stream=False), generated("Blue"), [Delta(0, "Blue"), Finish(0, "stop")]),
        (completion(stream=False), generated("Blue", "length"), [Delta(0, "Blue"), Finish(0, "length")]),
        (completion(stream=False, echo=True), generated("Blue"), [Delta(0, "Say:Blue"), Finish(0, "stop")]),
        (
            completion(stream=False, stop=("ue",)),
            generated("Blue", "stop_sequence"),
            [Delta(0, "Bl"), Finish(0, "stop")],
        ),
        (
            completion(stream=False, stop=("ue",), logprobs=0),
            generated("Blue", "stop_sequence", ("Bl", "ue")),
            [Delta(0, "Bl", 0, (Logprob("Bl", -0.5, b"Bl"),)), Finish(0, "stop")],
        ),
        (
            completion(stream=False, logprobs=1),
            generated(
                "Blue",
                "eos_token",
                ("Blue", "</s>"),
                top_tokens=[[{"id": 2, "text": "Red", "logprob": -2, "special": False}], []],
            ),
            [
                Delta(0, "Blue", 0, (Logprob("Blue", -0.5, b"Blue", (Logprob("Red", -2.0, b"Red"),)),)),
                Finish(0, "stop"),
            ],
        ),
    ],
)
def test_whole_completions_are_repaired(request_, body, expected):
    for cut in range(len(body) + 1):
        assert read(request_, body[:cut], body[cut:], headers=HEADERS) == [*expected, Done(Usage(5, 3))]
    assert failure(read(request_, body[:-1])) is Kind.UPSTREAM


@pytest.mark.parametrize("reason", ["abort", "", None])
def test_an_end_that_is_none_is_a_failure(reason):
    assert failure(read(chat(stream=False), whole({"content": "Bl"}, reason))) is Kind.UPSTREAM
    assert failure(read(completion(stream=False), generated("Bl", reason))) is Kind.UPSTREAM


def test_ids_of_calls_differ_from_answer_to_answer():
    decoders = [TGI().decoder(chat()) for _ in range(2)]
    ids = set()
    for decoder in decoders:
        decoder.start(200, {})
        ids |= {event.id for event in decoder.feed(calls("f", "{}")) if isinstance(event, ToolDelta) and event.id}
    assert len(ids) == 2


def test_every_token_counts_and_so_does_the_last():
    decoder = TGI().decoder(chat())
    decoder.start(200, {})
    events = decoder.feed(says("a") + says("b") + chunk(reason="stop"))
    assert sum(event.tokens for event in events if isinstance(event, Delta)) == 3


def test_tokens_have_their_numbers_and_an_end_its_stop_string():
    decoder = TGI().decoder(completion(stop=("END",), logprobs=1))
    decoder.start(200, {})
    events = decoder.feed(token(1, "Blue", top=["Red"]) + token(2, "END", final="BlueEND", reason="stop_sequence"))
    [logprob] = [logprob for event in events if isinstance(event, Delta) for logprob in event.logprobs]
    assert (logprob.id, logprob.top[0].id) == (7, 7)
    assert Finish(0, "stop", "END") in events

"""Answers of OpenAI-like servers that need repair, and those that are errors in disguise.

The recordings have neither tool calls nor reasoning: what is here is written from vLLM 0.33 and SGLang 0.5.23.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat._completions import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from backends.remote.recordings import events
from illm.backends.remote import sglang, vllm
from illm.backends.remote.relay import StreamAnswer
from illm.config import Config
from illm.core.events import Delta, Done, Failed, Finish, Logprob, Raw, Reasoning, ToolDelta, Usage
from illm.dialects.openai import chat_encoder, parse_chat, parse_completion, parse_embeddings
from illm.errors import Kind

VLLM, SGLANG = vllm.dialect(Config()), sglang.dialect(Config())
HEAD = {"id": "c-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
TOOL = {"type": "function", "function": {"name": "get", "parameters": {}}}
SSE, JSON = {b"content-type": b"text/event-stream"}, {b"content-type": b"application/json"}
END = "data: [DONE]\n\n"


def request(stream=True, **fields):
    body = {"messages": [{"role": "user", "content": "?"}], "stream": stream, "model": "m", **fields}
    return parse_chat(body)


def chunk(delta=None, finish=None, index=0, **more):
    choice = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {**HEAD, "choices": [choice], **more}


def wire(*chunks, end=END):
    frames = [f"data: {json.dumps(one, separators=(',', ':'), ensure_ascii=False)}\n\n" for one in chunks]
    return ("".join(frames) + end).encode()


def decode(asked, *pieces, dialect=VLLM, status=200, headers=SSE):
    decoder = dialect.decoder(asked)
    decoder.start(status, headers)
    happened = [event for piece in pieces for event in decoder.feed(piece)]
    return happened + list(decoder.close())


def stream(asked, *chunks, dialect=VLLM):
    happened = decode(asked, wire(*chunks), dialect=dialect)
    assert type(happened[-1]) is Done
    return b"".join(event.data for event in happened[:-1])


def failure(*args, **kwargs):
    *before, last = decode(*args, **kwargs)
    assert isinstance(last, Failed)
    assert all(isinstance(event, Raw) for event in before)
    return last.error


def folded(body):
    state = ChatCompletionStreamState()
    for one in events(body):
        state.handle_chunk(ChatCompletionChunk.model_validate(one, strict=True))
    return state.current_completion_snapshot


ROLE = chunk({"role": "assistant", "content": ""})


def test_reasoning_has_one_name():
    body = stream(
        request(),
        ROLE,
        chunk({"reasoning": "h\u2028m"}),
        chunk({"content": "so"}),
        chunk({"reasoning": None}),
        chunk({}, "stop"),
    )
    assert b'"reasoning"' not in body
    message = folded(body).choices[0].message
    assert (message.content, message.reasoning_content) == ("so", "h\u2028m")


def test_text_that_speaks_of_reasoning_or_errors_is_text():
    text = 'say "reasoning" or "error", {"error": {"message": "x"}} [DONE] "finish_reason":"stop"'
    body = stream(request(), ROLE, chunk({"content": text}), chunk({"content": "error"}), chunk({}, "stop"))
    assert folded(body).choices[0].message.content == text + "error"


VLLM_CALLS = [
    ROLE,
    chunk(
        {"tool_calls": [{"index": 0, "id": "t-1", "type": "function", "function": {"name": "get", "arguments": ""}}]}
    ),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
    chunk(
        {"tool_calls": [{"index": 1, "id": "t-2", "type": "function", "function": {"name": "put", "arguments": "{}"}}]}
    ),
    chunk({}, "stop"),
]


def nulls(**fields):
    return {"role": None, "content": None, "reasoning_content": None, **fields}


SGLANG_CALLS = [
    chunk({"reasoning_content": None, "role": "assistant", "content": ""}, matched_stop=None),
    chunk(
        nulls(tool_calls=[{"id": "t-1", "index": 0, "type": "function", "function": {"name": "get", "arguments": ""}}])
    ),
    chunk(
        nulls(tool_calls=[{"id": None, "index": 0, "type": "function", "function": {"name": None, "arguments": None}}])
    ),
    chunk(
        nulls(
            tool_calls=[
                {"id": None, "index": 0, "type": "function", "function": {"name": None, "arguments": '{"a":1}'}}
            ]
        ),
        usage=None,
    ),
    chunk(
        nulls(
            tool_calls=[{"id": "t-2", "index": 1, "type": "function", "function": {"name": "put", "arguments": "{}"}}]
        )
    ),
    chunk({"reasoning_content": None}, "tool_calls"),
]
# A server that repeats itself, starts every call at index 0 or leaves the index out altogether.
REPEATED = [
    ROLE,
    chunk(
        {
            "role": "assistant",
            "tool_calls": [{"index": 0, "id": "t-1", "function": {"name": "get", "arguments": '{"a"'}}],
        }
    ),
    chunk(
        {
            "role": "assistant",
            "tool_calls": [{"index": 0, "id": "t-1", "function": {"name": "get", "arguments": ":1}"}}],
        }
    ),
    chunk({"tool_calls": [{"index": 0, "id": "t-2", "function": {"name": "put", "arguments": {}}}]}),
    chunk({}, "eos_token"),
]
NO_INDEX = [
    ROLE,
    chunk({"tool_calls": [{"id": "t-1", "function": {"name": "get", "arguments": '{"a"'}}]}),
    chunk({"tool_calls": [{"function": {"arguments": ":1}"}}]}),
    chunk({"tool_calls": [{"id": "t-2", "function": {"name": "put", "arguments": "{}"}}]}),
    chunk({}, "stop"),
]


@pytest.mark.parametrize("chunks", [VLLM_CALLS, SGLANG_CALLS, REPEATED, NO_INDEX])
def test_tool_calls_are_said_once_and_in_their_place(chunks):
    body = stream(request(tools=[TOOL]), *chunks, dialect=SGLANG)
    snapshot = folded(body)
    calls = snapshot.choices[0].message.tool_calls
    assert [(call.index, call.id, call.type, call.function.name, call.function.arguments) for call in calls] == [
        (0, "t-1", "function", "get", '{"a":1}'),
        (1, "t-2", "function", "put", "{}"),
    ]
    assert snapshot.choices[0].finish_reason == "tool_calls"
    assert snapshot.choices[0].message.role == "assistant"
    assert b"null" not in body.replace(b'"logprobs":null', b"").replace(b'"finish_reason":null', b"").replace(
        b'"matched_stop":null', b""
    )


def test_a_call_without_an_id_gets_one():
    calls = chunk({"tool_calls": [{"index": 0, "function": {"name": "get", "arguments": "{}"}}]})
    (call,) = folded(stream(request(tools=[TOOL]), ROLE, calls, chunk({}, "stop"))).choices[0].message.tool_calls
    assert call.id.startswith("call_")


def test_a_named_tool_ends_with_stop_as_at_openai():
    choice = {"type": "function", "function": {"name": "get"}}
    asked = request(tools=[TOOL], tool_choice=choice)
    assert folded(stream(asked, *VLLM_CALLS)).choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("theirs", "ours"), [("repetition", "stop"), ("eos", "stop"), ("odd", "stop"), ("length", "length")]
)
@pytest.mark.parametrize("tools", [[], [TOOL]])
def test_a_reason_to_end_that_clients_know(theirs, ours, tools):
    body = stream(request(tools=tools), ROLE, chunk({"content": "x"}), chunk({"content": "y"}, theirs))
    snapshot = folded(body)
    assert (snapshot.choices[0].message.content, snapshot.choices[0].finish_reason) == ("xy", ours)


@pytest.mark.parametrize("reason", ["abort", "error"])
@pytest.mark.parametrize("tools", [[], [TOOL]])
def test_a_reason_that_means_failure_is_one(reason, tools):
    assert failure(request(tools=tools), wire(ROLE, chunk({}, reason))).kind is Kind.UPSTREAM
    assert failure(request(stream=False), whole(finish=reason), headers=JSON).kind is Kind.UPSTREAM


def test_choices_come_in_order_and_under_one_id():
    body = stream(
        request(n=3),
        chunk({"role": "assistant", "content": None}, index=2),
        {**chunk({"content": "c"}, index=2), "id": "other", "created": 9},
        chunk({"role": "assistant", "content": "a"}, index=0),
        chunk({"content": "b"}, index=1),
        *(chunk({}, "stop", index=index) for index in range(3)),
    )
    snapshot = folded(body)
    assert [choice.message.content for choice in snapshot.choices] == ["a", "b", "c"]
    assert {(one["id"], one["created"]) for one in events(body)} == {("c-1", 5)}


USAGE = {
    "prompt_tokens": 3,
    "total_tokens": 5,
    "completion_tokens": 2,
    "reasoning_tokens": 1,
    "prompt_tokens_details": None,
}


@pytest.mark.parametrize("asked_for", [False, True])
def test_usage_comes_last_and_only_where_asked_for(asked_for):
    options = {"stream_options": {"include_usage": True}} if asked_for else {}
    for chunks in (
        [ROLE, chunk({"content": "x"}), chunk({}, "stop"), {**HEAD, "choices": [], "usage": USAGE}],
        [ROLE, chunk({"content": "x"}), chunk({}, "stop", usage=USAGE)],
    ):
        happened = decode(request(**options), wire(*chunks))
        assert happened[-1] == Done(Usage(3, 2))
        counted = [one for one in events(b"".join(event.data for event in happened[:-1])) if one.get("usage")]
        assert len(counted) == asked_for
        for one in counted:
            assert one["choices"] == []
            assert one["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}
            assert one["usage"]["total_tokens"] == 5


def test_equal_choices_are_repeated():
    asked = request(n=2, temperature=0, stream_options={"include_usage": True})
    chunks = [ROLE, chunk({"content": "x"}), chunk({}, "stop"), {**HEAD, "choices": [], "usage": USAGE}]
    body = stream(asked, *chunks)
    assert [choice.message.content for choice in folded(body).choices] == ["x", "x"]
    assert events(body)[-1]["usage"]["completion_tokens"] == 4
    happened = decode(request(stream=False, n=2, temperature=0), whole(usage=USAGE), headers=JSON)
    answer = json.loads(happened[0].data)
    assert [(choice["index"], choice["message"]["content"]) for choice in answer["choices"]] == [(0, "hi"), (1, "hi")]


def test_the_gateways_name_for_the_model():
    body = stream(request(model="ours"), {**ROLE, "model": "theirs"}, chunk({"content": "x"}), chunk({}, "stop"))
    assert {one["model"] for one in events(body)} == {"ours"}
    body = stream(parse_chat({"messages": [{"role": "user", "content": "?"}], "stream": True}), ROLE, chunk({}, "stop"))
    assert {one["model"] for one in events(body)} == {"m"}


def test_the_common_token_is_not_parsed(monkeypatch):
    parsed = []
    original = StreamAnswer._parse
    monkeypatch.setattr(StreamAnswer, "_parse", lambda self, got: parsed.extend(got) or original(self, got))
    tokens = [chunk({"content": "x"}) for _ in range(50)]
    stream(request(), ROLE, *tokens, chunk({}, "stop"))
    assert len(parsed) == 3  # the first, the reason to end, [DONE]


def test_a_read_is_one_event():
    decoder = VLLM.decoder(request())
    decoder.start(200, SSE)
    decoder.feed(wire(ROLE, end=""))
    piece = wire(*[chunk({"content": "x"})] * 5, end="data: {")
    assert decoder.feed(piece) == (Raw(piece[:-7]),)


def test_a_server_with_wider_json_is_read_as_well():
    chunks = [ROLE, chunk({"content": "x"}), chunk({"content": "y", "reasoning": "z"}), chunk({}, "stop")]
    wide = "".join(f"data: {json.dumps(one, indent=None)}\r\n\r\n" for one in chunks).encode() + END.encode()
    happened = decode(request(), wide)
    assert folded(b"".join(event.data for event in happened[:-1])).choices[0].message.content == "xy"


@pytest.mark.parametrize("tail", [b"data: [DONE]\n\n", b"data: [DONE]\n", b"data: [DONE]", b"", b": bye\n\n"])
def test_done_comes_once_whether_or_not_upstream_says_it(tail):
    happened = decode(request(), wire(ROLE, chunk({"content": "x"}), chunk({}, "stop"), end="") + tail)
    body = b"".join(event.data for event in happened[:-1])
    assert (body.count(b"[DONE]"), body.endswith(b"data: [DONE]\n\n")) == (1, True)


PIECES = [
    wire(ROLE, end=""),
    wire(chunk({"content": "x"}), end=""),
    wire(chunk({"tool_calls": [{"index": {}, "id": 7, "function": "f"}, None, 7]}), end=""),
    wire(chunk({"tool_calls": 7, "reasoning": []}, 7, index="x", usage=7), end=""),
    wire({**HEAD, "choices": [7, None, {"delta": 7}], "usage": {"prompt_tokens": "x"}}, end=""),
    wire({**HEAD, "choices": 7}, end=""),
    wire(chunk({}, "stop"), end=""),
    b"data: [DONE]\n\n",
    b"\r",
    b"\n\n",
]
ERROR_FRAMES = [
    b'data: {"error":{"message":"cuda died","type":"InternalServerError","param":null,"code":500}}\n\ndata: [DONE]\n\n',
    b'data: {"error":{"object":"error","message":"cuda died","type":"x","param":null,"code":500}}\n\ndata: [DONE]\n\n',
    b'data: {"error":"cuda died"}\n\n',
    b'data: {"object":"error","message":"cuda died","code":500}\n\n',
    b'event: error\r\ndata: {"error": {"message": "cuda died"}}\r\n\r\n',
]


@pytest.mark.parametrize("frame", ERROR_FRAMES)
@pytest.mark.parametrize("tools", [[], [TOOL]])
@pytest.mark.parametrize("before", [[], [ROLE], [ROLE, chunk({"content": "x"})]])
def test_an_error_in_a_stream(frame, tools, before):
    error = failure(request(tools=tools), wire(*before, end=""), frame)
    assert error.kind is Kind.UPSTREAM
    assert "cuda died" in error.message


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"data: [DONE]\n\n"],
        [b"\n\n"],
        [wire(ROLE)],
        [wire(ROLE, chunk({"content": "x"}), end="")],
        [wire(ROLE, chunk({}, "stop", index=1))],
        [b"data: {nonsense\n\n"],
        [b"data: 7\n\n"],
        [b"data: [1]\n\n"],
        [b"\x00\xff" * 100],
        [wire(ROLE, end=""), b"data: <html>\n\n"],
    ],
)
@pytest.mark.parametrize("tools", [[], [TOOL]])
def test_nonsense_is_not_a_clean_end(pieces, tools):
    assert failure(request(tools=tools), *pieces).kind is Kind.UPSTREAM


def test_after_a_failure_nothing_follows():
    decoder = VLLM.decoder(request())
    decoder.start(200, SSE)
    (failed,) = decoder.feed(b"data: {nonsense\n\n")
    assert isinstance(failed, Failed)
    assert not decoder.feed(wire(ROLE))
    assert not decoder.close()


def whole(finish="stop", **fields):
    message = {"role": "assistant", "content": "hi"}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], **fields}).encode()


def test_a_whole_answer_with_calls_and_reasoning():
    call = {"id": "t", "index": 0, "type": "function", "function": {"name": "get", "arguments": ""}}
    message = {"role": "assistant", "content": "", "reasoning": "hm", "tool_calls": [call, {"function": {"name": "f"}}]}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    happened = decode(request(stream=False, tools=[TOOL]), whole(choices=[choice], usage=USAGE), headers=JSON)
    assert happened[-1] == Done(Usage(3, 2))
    answer = ChatCompletion.model_validate_json(happened[0].data, strict=True).choices[0]
    assert (answer.finish_reason, answer.message.content, answer.message.reasoning_content) == (
        "tool_calls",
        None,
        "hm",
    )
    assert [call.function.arguments for call in answer.message.tool_calls] == ["{}", "{}"]
    assert answer.message.tool_calls[0].id == "t"
    assert answer.message.tool_calls[1].id.startswith("call_")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"7",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":null}',
        b'{"choices":[7]}',
        whole(finish=None),
        whole()[:-1],
        b'{"error":{"message":"x"}}',
        b'{"error":"x"}',
    ],
)
def test_a_whole_answer_that_is_none(body):
    assert failure(request(stream=False), body, headers=JSON).kind is Kind.UPSTREAM
    assert failure(request(), body, headers=JSON).kind is Kind.UPSTREAM


def test_an_error_under_status_200_keeps_its_meaning():
    body = b'{"object":"error","message":"This model\'s maximum context length is 5 tokens","code":400}'
    assert failure(request(stream=False), body, headers=JSON).kind is Kind.CONTEXT_LENGTH
    assert failure(request(), body, headers=JSON).kind is Kind.CONTEXT_LENGTH


def test_a_completions_offsets_are_counted_on_through_a_stream():
    def piece(*tokens, finish=None):
        logprobs = {"tokens": tokens, "token_logprobs": [-1] * len(tokens), "text_offset": [-1] * len(tokens)}
        choice = {"index": 0, "text": "".join(tokens), "logprobs": logprobs, "finish_reason": finish}
        return {**HEAD, "object": "text_completion", "choices": [choice]}

    asked = parse_completion({"prompt": "?", "stream": True, "logprobs": 0, "model": "m"})
    body = stream(asked, piece("ab", "c"), piece("é"), piece("d", finish="stop"), dialect=SGLANG)
    assert [one["choices"][0]["logprobs"]["text_offset"] for one in events(body)] == [[0, 2], [3], [4]]


def test_a_completions_logprobs_in_the_shape_of_a_chat_are_put_in_their_own():
    def piece(*tokens, finish=None):
        entries = [{"token": one, "logprob": -1.5, "top_logprobs": [{"token": one, "logprob": -1.5}]} for one in tokens]
        choice = {"index": 0, "text": "".join(tokens), "logprobs": {"content": entries}, "finish_reason": finish}
        return {**HEAD, "object": "text_completion", "choices": [choice]}

    asked = {"prompt": "?", "logprobs": 1, "model": "m"}
    raw, _ = decode(parse_completion(asked), json.dumps(piece("ab", "c", finish="stop")).encode(), headers=JSON)
    assert json.loads(raw.data)["choices"][0]["logprobs"] == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-1.5, -1.5],
        "top_logprobs": [{"ab": -1.5}, {"c": -1.5}],
        "text_offset": [0, 2],
    }
    body = stream(parse_completion({**asked, "stream": True}), piece("ab"), piece("c", finish="stop"))
    assert [one["choices"][0]["logprobs"]["text_offset"] for one in events(body)] == [[0], [2]]


def test_a_client_that_wants_one_call_gets_one():
    calls = [{"index": at, "id": f"t{at}", "function": {"name": "get", "arguments": "{}"}} for at in range(2)]
    one = {"tools": [TOOL], "parallel_tool_calls": False}
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}).encode()
    for fields, expected in ((one, ["t0"]), ({"tools": [TOOL]}, ["t0", "t1"])):
        raw, _ = decode(request(stream=False, **fields), body, headers=JSON)
        assert [call["id"] for call in json.loads(raw.data)["choices"][0]["message"]["tool_calls"]] == expected
        chunks = [chunk({"tool_calls": [call]}) for call in calls]
        streamed = events(stream(request(**fields), *chunks, chunk(finish="tool_calls")))
        deltas = [choice["delta"].get("tool_calls", []) for one_chunk in streamed for choice in one_chunk["choices"]]
        assert [call["id"] for delta in deltas for call in delta] == expected


EMBED = parse_embeddings({"input": "x", "model": "e"})


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b'{"data":[]}', b'{"data":"x"}', b'{"data":[{"embedding":[1}]}', b'{"error":"x"}', b"\xff"],
)
def test_embeddings_that_are_none(body):
    assert failure(EMBED, body, headers=JSON).kind is Kind.UPSTREAM


def test_embeddings_pass_through():
    data = b'[{"object":"embedding","index":0,"embedding":"AAAA"}]'
    body = b'{"data": %s,"model":"/data/x","object":"list","usage":{"prompt_tokens":4,"total_tokens":4}}' % data
    raw, done = decode(EMBED, body[:30], body[30:], headers=JSON)
    assert raw.data == (b'{"object":"list","data":%s,"model":"e","usage":{"prompt_tokens":4,"total_tokens":4}}' % data)
    assert done == Done(Usage(4))


EVENTS = [
    [Reasoning(0, "hm"), ToolDelta(0, 0, id="t", name="get"), ToolDelta(0, 0, "{}"), Finish(0, "tool_calls")],
    [Delta(0, "a\u2028", 1), Delta(0, "b", 1, (Logprob("b", -1.0, b"b"),)), Finish(0, "stop")],
]


@pytest.mark.parametrize("said", EVENTS)
@pytest.mark.parametrize("fields", [{}, {"stream_options": {"include_usage": True}}, {"stream": False}])
def test_a_gateway_in_front_of_a_gateway(said, fields):
    asked = request(**fields)
    inner = chat_encoder(asked, id="c", created=1, model="m")
    theirs = inner.feed([*said, Done(Usage(3, 2))]) + inner.close()
    happened = decode(asked, theirs, headers={b"content-type": inner.content_type})
    body = b"".join(event.data for event in happened[:-1])
    if asked.stream:
        assert folded(body) == folded(theirs)
        assert happened[-1] == Done(Usage(3, 2) if asked.include_usage else Usage())
    else:
        assert json.loads(body) == json.loads(theirs)


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(PIECES))), st.sampled_from(["vllm", "sglang"]))
def test_whatever_comes_is_an_end_or_one_failure(pieces, framework):
    for asked in (request(), request(tools=[TOOL], n=2), request(stream=False), EMBED):
        for status in (200, 400):
            happened = decode(
                asked, *pieces, dialect=VLLM if framework == "vllm" else SGLANG, status=status, headers={}
            )
            assert type(happened[-1]) in (Done, Failed)
            assert all(type(event) is Raw for event in happened[:-1])


def test_an_error_with_a_status():
    error = failure(request(), b'{"error":"Unauth', b'orized"}', status=401, headers=JSON)
    assert error.kind is Kind.UPSTREAM
    assert "Unauthorized" not in error.message
    huge = failure(request(), *[b"x" * 100_000] * 30, status=500, headers={})
    assert len(huge.message) < 2000

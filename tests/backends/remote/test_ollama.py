"""The Ollama dialect against a strict Ollama: whatever goes out is accepted, whatever comes back is understood."""

from base64 import b64encode
from contextlib import closing
from http.client import HTTPConnection

import pytest

from backends.remote.ollama_server import Says, running_ollama
from illm.backends.remote.ollama import OllamaDialect, dialect
from illm.config import Config
from illm.core.events import Delta, Done, Failed, Finish, Reasoning, ToolDelta, Usage, Vectors
from illm.dialects.openai import parse_chat, parse_completion, parse_embeddings
from illm.errors import GatewayError, Kind

PNG = b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 16).decode()
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def server():
    with running_ollama() as ollama:
        yield ollama


@pytest.fixture
def speaks():
    return dialect(Config())


def get(server, path):
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=5)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def ask(server, request, speaks=None, *, size=7):
    speaks = speaks or OllamaDialect()
    outgoing, decoder = speaks.outgoing(request), speaks.decoder(request)
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=5)) as connection:
        headers = {name.decode(): value.decode() for name, value in outgoing.headers}
        connection.request(outgoing.method, outgoing.path, outgoing.body, headers)
        response = connection.getresponse()
        decoder.start(response.status, {k.lower().encode(): v.encode() for k, v in response.getheaders()})
        events = []
        while data := response.read(size):
            events += decoder.feed(data)
        return events + list(decoder.close())


def chat(model="plain", content="hi", **fields):
    return parse_chat({"model": model, "messages": [{"role": "user", "content": content}], "stream": True, **fields})


def complete(model="plain", prompt="Once", **fields):
    return parse_completion({"model": model, "prompt": prompt, "stream": True, **fields})


HELLO = [Delta(0, "Hello", 1), Delta(0, " there", 1), Delta(0, "!", 1), Finish(0, "stop"), Done(Usage(5, 3))]


WHOLE = [Delta(0, "Hello there!", 1), *HELLO[-2:]]


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_chat(server, size):
    assert ask(server, chat(), size=size) == HELLO
    assert ask(server, chat(stream=False), size=size) == WHOLE


def test_completion(server):
    assert ask(server, complete()) == HELLO
    assert ask(server, complete(stream=False)) == WHOLE
    assert server.body["raw"] is True


def test_reasoning_tools_and_logprobs_without_a_stream(server):
    server.says = Says(calls=[{"function": {"name": "f", "arguments": {"a": 1}}}])
    fields = {"think": True, "tools": [TOOL], "logprobs": True, "top_logprobs": 1, "stream": False}
    reasoning, text, head, arguments, finish, _ = ask(server, chat("qwen3:4b", **fields))
    assert reasoning == Reasoning(0, "Hm...")
    assert (text.text, len(text.logprobs)) == ("Hello there!", 3)
    assert (head.name, arguments.arguments) == ("f", '{"a":1}')
    assert finish == Finish(0, "tool_calls")


def test_limit(server):
    assert ask(server, chat(max_tokens=1))[-2:] == [Finish(0, "length"), Done(Usage(5, 1))]


def test_a_prompt_that_was_cached_counts_nothing(server):
    server.says = Says(prompt_count=0)
    assert ask(server, chat())[-1] == Done(Usage(0, 3))


def test_a_model_thinks_only_when_asked(server):
    assert ask(server, chat("qwen3:4b")) == HELLO
    thinking = [Reasoning(0, "Hm"), Reasoning(0, "...")]
    assert ask(server, chat("qwen3:4b", reasoning_effort="low")) == thinking + HELLO
    assert ask(server, complete("qwen3:4b")) == HELLO


def test_tools(server):
    server.says = Says(words=(), calls=[{"function": {"name": "f", "arguments": {"a": 1}}}] * 2)
    events = ask(server, chat("qwen3:4b", tools=[TOOL]))
    (first, _, second, _) = [event for event in events if isinstance(event, ToolDelta)]
    assert (first.call, second.call) == (0, 1)
    assert first.id != second.id
    assert events[-2] == Finish(0, "tool_calls")


def test_every_field_at_once_is_accepted(server):
    fields = {
        "max_tokens": 9,
        "temperature": 1,
        "top_p": 0,
        "top_k": 5,
        "min_p": 0,
        "repetition_penalty": 1.1,
        "presence_penalty": 1,
        "frequency_penalty": 1,
        "stop": ["x", "y"],
        "seed": -5,
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [TOOL],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "keep_alive": -1,
        "options": {"num_ctx": 2048},
        "think": "low",
    }
    events = ask(server, chat("qwen3:4b", **fields))
    assert [len(event.logprobs[0].top) for event in events if isinstance(event, Delta)] == [2, 2, 2]
    assert isinstance(events[-1], Done)


def test_a_whole_conversation_with_tools_is_accepted(server):
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1]"}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "42"},
    ]
    request = parse_chat({"model": "qwen3:4b", "messages": messages, "tools": [TOOL]})
    assert isinstance(ask(server, request)[-1], Done)


def test_images(server):
    content = [{"type": "image_url", "image_url": f"data:image/png;base64,{PNG}"}, {"type": "text", "text": "?"}]
    assert ask(server, chat("llava:7b", content)) == HELLO
    assert server.body["messages"] == [{"role": "user", "content": "?", "images": [PNG]}]
    error = ask(server, chat("plain", content))[-1].error
    assert (error.kind, error.param) == (Kind.CAPABILITY, "messages")


def test_suffix(server):
    assert ask(server, complete("coder", suffix="end")) == HELLO
    assert ask(server, complete("plain", suffix="end"))[-1].error.kind is Kind.CAPABILITY


def test_embeddings(server):
    request = parse_embeddings({"model": "minilm", "input": ["a", "bb"], "dimensions": 3})
    vectors, done = ask(server, request)
    assert isinstance(vectors, Vectors)
    assert [len(row) for row in vectors.rows] == [12, 12]
    assert done == Done(Usage(3))


@pytest.mark.parametrize(
    ("make", "kind", "param"),
    [
        (lambda: chat("nope"), Kind.MODEL_NOT_FOUND, "model"),
        (lambda: chat(content="x" * 600), Kind.CONTEXT_LENGTH, "messages"),
        (lambda: complete(prompt="x" * 600), Kind.CONTEXT_LENGTH, "prompt"),
        (lambda: parse_embeddings({"model": "minilm", "input": "x" * 600}), Kind.CONTEXT_LENGTH, "input"),
        (lambda: chat(tools=[TOOL]), Kind.CAPABILITY, "tools"),
        (lambda: chat(reasoning_effort="high"), Kind.UNSUPPORTED_PARAMETER, "reasoning_effort"),
        (lambda: chat("minilm"), Kind.CAPABILITY, "model"),
        (lambda: chat(options={"num_predict": "many"}), Kind.INVALID_REQUEST, "options.num_predict"),
    ],
)
def test_refusals_keep_their_meaning(server, make, kind, param):
    (failed,) = ask(server, make())
    assert isinstance(failed, Failed)
    assert (failed.error.kind, failed.error.param) == (kind, param)


def test_a_busy_server(server):
    server.busy = True
    assert ask(server, chat())[-1].error.kind is Kind.OVERLOADED


@pytest.mark.parametrize("says", [Says(error_after=1), Says(cut_after=1), Says(cut_after=3), Says(reason=None)])
def test_no_broken_answer_looks_complete(server, says):
    server.says = says
    events = ask(server, chat())
    assert events[0] == Delta(0, "Hello", 1)
    assert isinstance(events[-1], Failed)
    assert not any(isinstance(event, Finish | Done) for event in events)


def test_probe_and_models(server, speaks):
    assert get(server, speaks.probe_path)[0] == 200
    assert list(speaks.models(get(server, speaks.models_path)[1])) == [
        *("qwen3:4b", "llava:7b", "plain", "plain:latest", "coder", "coder:latest", "minilm", "minilm:latest"),
        *("ears", "ears:latest"),
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"models":null}', b'{"models":[{}]}', b'{"models":[1]}', b"\xff"])
def test_a_list_that_makes_no_sense_is_an_empty_one(speaks, body):
    assert list(speaks.models(body)) == []


IMAGE = [{"type": "image_base64", "image_base64": PNG}]


@pytest.mark.parametrize(
    ("make", "kind", "param"),
    [
        (lambda: chat("Plain:LATEST", IMAGE), Kind.CAPABILITY, "messages[0].content"),
        (lambda: chat(tools=[TOOL]), Kind.CAPABILITY, "tools"),
        (lambda: chat(think=True), Kind.UNSUPPORTED_PARAMETER, "think"),
        (lambda: chat(reasoning_effort="high"), Kind.UNSUPPORTED_PARAMETER, "reasoning_effort"),
        (lambda: complete(suffix="x"), Kind.CAPABILITY, "suffix"),
    ],
)
def test_what_a_listed_model_cannot_do_is_refused_before_it_is_asked(server, speaks, make, kind, param):
    speaks.outgoing(make())
    speaks.models(get(server, speaks.models_path)[1])
    with pytest.raises(GatewayError) as caught:
        speaks.outgoing(make())
    assert (caught.value.kind, caught.value.param) == (kind, param)
    assert "ollama" in caught.value.message


def test_what_a_listed_model_can_do_is_asked(server, speaks):
    speaks.models(get(server, speaks.models_path)[1])
    ask(server, chat("llava:7b", IMAGE), speaks)
    ask(server, chat("qwen3:4b", tools=[TOOL], think=True), speaks)
    ask(server, chat("plain", tools=[TOOL], tool_choice="none", think=False, reasoning_effort="none"), speaks)
    assert len(server.requests) == 3


def test_a_server_that_lists_no_abilities_is_asked(server, speaks):
    server.lists_capabilities = False
    speaks.models(get(server, speaks.models_path)[1])
    assert ask(server, chat("llava:7b", IMAGE), speaks) == HELLO

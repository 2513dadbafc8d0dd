"""Our test TGI satisfies Hugging Face's client, so that it does not merely agree with our own code."""

import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from backends.remote.tgi_server import Says, running_tgi

hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}


@pytest.fixture
def server():
    with running_tgi() as tgi:
        yield tgi


@pytest.fixture
def client(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # which forbids this machine's own ports too
    return hub.InferenceClient(base_url=server.url)


def test_it_generates(client, server):
    whole = client.text_generation("Say:", details=True, max_new_tokens=3)
    assert whole.generated_text == " Hello there"
    assert whole.details.finish_reason == "length"
    assert [token.text for token in whole.details.tokens] == [" Hello", " the", "re"]
    assert client.text_generation("Say:") == " Hello there!"
    assert not server.sampled
    client.text_generation("Say:", top_k=5)
    assert server.sampled


def test_it_streams(client):
    pieces = list(client.text_generation("Say:", details=True, stream=True))
    assert pieces[-1].token.special
    assert pieces[-1].generated_text == " Hello there!"
    assert pieces[-1].details.finish_reason == "eos_token"
    assert pieces[-1].details.input_length == 1


def test_its_stop_string_stays(client):
    whole = client.text_generation("Say:", details=True, stop=["the"])
    assert whole.generated_text == " Hello the"
    assert whole.details.finish_reason == "stop_sequence"


@pytest.mark.parametrize("stream", [True, False])
def test_it_refuses(client, server, stream):
    with pytest.raises(errors.ValidationError, match="`top_p` must be"):
        list(client.text_generation("Say:", top_p=1.0, stream=stream))
    server.overloaded = True
    with pytest.raises(errors.OverloadedError):
        list(client.text_generation("Say:", stream=stream))


def test_it_chats(client):
    answer = client.chat_completion(HI, max_tokens=9, seed=1, temperature=0.5)
    assert answer.choices[0].message.content == " Hello there!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id == ""
    chunks = list(client.chat_completion(HI, stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.role for chunk in chunks[:-1]] == ["assistant"] * 5
    assert chunks[-1].usage.completion_tokens == 5


def test_it_calls_tools(client, server):
    server.says = Says(call=("f", ('{"a":', "1}")))
    answer = client.chat_completion(HI, tools=[TOOL], tool_choice="auto")
    [call] = answer.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("0", "f", '{"a":1}')
    assert answer.choices[0].finish_reason == "stop"
    chunks = list(client.chat_completion(HI, tools=[TOOL], stream=True))
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None]
    assert [chunk.choices[0].delta.tool_calls[0].id for chunk in chunks] == ["0", "0"]


def test_it_gives_logprobs(client):
    answer = client.chat_completion(HI, logprobs=True, top_logprobs=2)
    assert [one.token for one in answer.choices[0].logprobs.content] == [" Hello", " the", "re", "!", "</s>"]
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def post(server, path, body, kind="application/json"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urlopen(Request(server.url + path, data, {"content-type": kind})) as answer:
            return answer.status, answer.headers.get_content_type(), answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.headers.get_content_type(), error.read().decode()


CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/generate", b"{", 400, "text/plain"),
        ("/generate", {}, 422, "text/plain"),
        ("/generate", {"inputs": [1]}, 422, "text/plain"),
        ("/generate", {"inputs": "a", "parameters": {"stop": None}}, 422, "text/plain"),
        ("/generate", {"inputs": "a", "parameters": {"stop": "x"}}, 422, "text/plain"),
        ("/generate", {"inputs": "a", "parameters": {"details": None}}, 422, "text/plain"),
        ("/generate", {"inputs": "a", "parameters": {"seed": -1}}, 422, "text/plain"),
        ("/generate", {"inputs": "a", "parameters": {"temperature": 0}}, 422, "application/json"),
        ("/generate", {"inputs": "a", "parameters": {"top_p": 1}}, 422, "application/json"),
        ("/generate", {"inputs": "", "parameters": {}}, 422, "application/json"),
        ("/generate", {"inputs": "a " * 99}, 422, "application/json"),
        ("/generate_stream", {"inputs": "a", "parameters": {"temperature": 0}}, 200, "text/event-stream"),
        ("/generate_stream", {"inputs": "a", "parameters": {"best_of": 2}}, 200, "text/event-stream"),
        (CHAT, {"messages": HI, "stream": None}, 422, "text/plain"),
        (CHAT, {"messages": HI, "stream_options": None}, 422, "text/plain"),
        (CHAT, {"messages": HI, "stop": "x"}, 422, "text/plain"),
        (CHAT, {"messages": HI, "logit_bias": {"1": 1}}, 422, "text/plain"),
        (CHAT, {"messages": HI, "max_tokens": 1, "max_completion_tokens": 1}, 422, "text/plain"),
        (CHAT, {"messages": HI, "response_format": {"type": "text"}}, 422, "text/plain"),
        (CHAT, {"messages": HI, "response_format": {"type": "json_schema", "json_schema": {}}}, 422, "text/plain"),
        (CHAT, {"messages": [{"role": "assistant", "content": None}]}, 422, "text/plain"),
        (CHAT, {"messages": HI, "tools": [{"type": "function", "function": {"name": "f"}}]}, 422, "text/plain"),
        (CHAT, {"messages": HI, "top_p": 1.0}, 422, "application/json"),
        (CHAT, {"messages": HI, "temperature": 0, "n": 3, "user": None}, 200, "application/json"),
        (
            CHAT,
            {"messages": HI, "tools": [TOOL], "response_format": {"type": "json", "value": SCHEMA}},
            422,
            "application/json",
        ),
        (CHAT, {"messages": HI, "stream": True, "top_p": 1.0}, 200, "text/event-stream"),
    ],
)
def test_it_is_as_strict_as_the_document_says(server, path, body, status, kind):
    assert post(server, path, body)[:2] == (status, kind)


def test_it_wants_to_be_told_that_it_is_json(server):
    assert post(server, "/generate", {"inputs": "a"}, "text/plain")[0] == 415


def test_it_would_fetch_what_a_user_writes(server):
    post(server, CHAT, {"messages": [{"role": "user", "content": "![](http://169.254.169.254/x)"}]})
    post(server, "/generate", {"inputs": "![](http://10.0.0.1/)"})
    assert server.fetched == ["http://169.254.169.254/x", "http://10.0.0.1/"]

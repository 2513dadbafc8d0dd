"""The whole way: OpenAI's requests in, a strict TGI (and a TEI) behind, OpenAI's answers out, on both loops."""

import struct
from base64 import b64decode
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.lowlevel
import httpx
import orjson
import pytest

from backends.remote.fake_server import STALL, fake_server, head, response
from backends.remote.tei_server import running_tei
from backends.remote.tgi_server import Says, running_tgi
from illm.actors.directory import Directory
from illm.actors.ref import State
from illm.asgi.app import Gateway
from illm.backends.remote.plan import plan_remote
from illm.config import Config

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TEXT = " Hello there!"


@pytest.fixture
def server():
    with running_tgi() as tgi:
        yield tgi


@pytest.fixture
def embedder():
    with running_tei() as tei:
        yield tei


@asynccontextmanager
async def gateway(**said):
    config = Config(framework="tgi", **said)
    app = Gateway(config, lambda: Directory([plan_remote("tgi", "tei")(config)], default="tgi"))
    with anyio.fail_after(20):
        async with app.running() as directory:
            while any(ref.state is not State.READY for ref in directory):
                await anyio.lowlevel.checkpoint()
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://illm", timeout=None) as client:
                yield client


@pytest.fixture
async def client(server):
    async with gateway(tgi_base_url=(server.url,)) as client:
        yield client


async def chat(client, **fields):
    return await client.post("/v1/chat/completions", json={"messages": HI, **fields})


async def complete(client, **fields):
    return await client.post("/v1/completions", json={"prompt": "Say:", **fields})


def chunks(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *frames, end, rest = response.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [orjson.loads(frame.removeprefix("data: ")) for frame in frames]


def told(parts):
    """Fold the chunks of choice 0 as clients do: strings are put together."""
    text, role, reason, calls = "", "", None, {}
    for part in parts:
        for choice in part["choices"]:
            delta = choice.get("delta", choice)
            text += delta.get("content") or delta.get("text") or ""
            role += delta.get("role") or ""
            reason = choice["finish_reason"] or reason
            for call in delta.get("tool_calls") or ():
                kept = calls.setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
                kept["id"] += call.get("id") or ""
                kept["name"] += call["function"].get("name") or ""
                kept["arguments"] += call["function"].get("arguments") or ""
    return text, role, reason, calls


async def test_chat(client, server):
    answer = (await chat(client, model="anything", temperature=0, stop="\n", seed=-1, top_p=1)).json()
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "anything"
    assert answer["usage"]["completion_tokens"] == 5  # the last token counts
    assert server.body["model"] == "tgi"
    assert server.body["seed"] == 2**64 - 1


async def test_a_chat_streams(client, server):
    server.says = Says(keep_alive=True)
    parts = chunks(await chat(client, stream=True, stream_options={"include_usage": True}))
    assert told(parts)[:3] == (TEXT, "assistant", "stop")
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"]["completion_tokens"] == 5
    assert len({part["id"] for part in parts}) == 1
    assert chunks(await chat(client, stream=True))[-1]["choices"] != []


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["there!"], " Hello "),  # whole at the end of a token
        (["llo th"], " He"),  # inside a token, where TGI does not look
        (["x", "!"], " Hello there"),
        (["!!"], TEXT),
    ],
)
async def test_stop_strings_never_leak(client, stop, expected, stream):
    for ask in (chat, complete):
        answer = await ask(client, stop=stop, stream=stream)
        if stream:
            text, _, reason, _ = told(chunks(answer))
        else:
            [choice] = answer.json()["choices"]
            text, reason = choice.get("text") or choice["message"]["content"], choice["finish_reason"]
        assert (text, reason) == (expected, "stop")


@pytest.mark.parametrize("stream", [True, False])
async def test_tools(client, server, stream):
    server.says = Says(call=("f", ('{"a":', "1}")))
    history = [
        *HI,
        {
            "role": "assistant",
            "content": "Let me see",
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
    ]
    answer = await chat(client, messages=history, tools=[TOOL], tool_choice="required", stream=stream)
    if stream:
        text, role, reason, calls = told(chunks(answer))
        assert (text, role) == ("", "assistant")
        [call] = calls.values()
    else:
        [choice] = answer.json()["choices"]
        assert choice["message"]["content"] is None
        [kept] = choice["message"]["tool_calls"]
        call, reason = {"id": kept["id"], **kept["function"]}, choice["finish_reason"]
    assert reason == "tool_calls"
    assert (call["name"], call["arguments"]) == ("f", '{"a":1}')
    assert call["id"] not in ("0", "call_1")
    assert server.body["tool_choice"] == "required"


async def test_a_schema_becomes_a_grammar(client, server):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    assert (await chat(client, response_format=form)).status_code == 200
    assert server.body["response_format"] == {"type": "json", "value": SCHEMA}
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    error = (await chat(client, response_format=bad)).json()["error"]
    assert (error["param"], error["type"]) == ("response_format", "invalid_request_error")


@pytest.mark.parametrize("stream", [True, False])
async def test_logprobs(client, stream):
    answer = await chat(client, logprobs=True, top_logprobs=2, stream=stream)
    choices = [choice for part in chunks(answer) for choice in part["choices"]] if stream else answer.json()["choices"]
    content = [one for choice in choices if choice["logprobs"] for one in choice["logprobs"]["content"]]
    assert [one["token"] for one in content] == [" Hello", " the", "re", "!"]  # not the end-of-text token
    assert content[0]["bytes"] == list(b" Hello")
    assert [other["token"] for other in content[0]["top_logprobs"]] == [" Hi", " Hi"]
    assert (await chat(client, logprobs=True, top_logprobs=6)).json()["error"]["param"] == "top_logprobs"


async def test_logprobs_of_a_completion(client):
    [choice] = (await complete(client, logprobs=1)).json()["choices"]
    assert choice["logprobs"]["tokens"] == [" Hello", " the", "re", "!"]
    assert choice["logprobs"]["text_offset"] == [0, 6, 10, 12]
    assert choice["logprobs"]["top_logprobs"][0][" Hi"] == -1.5


async def test_choices_are_fanned_out(client, server):
    body = {"n": 3, "seed": 5, "stream": True, "stream_options": {"include_usage": True}}
    parts = chunks(await chat(client, **body))
    texts = ["", "", ""]
    for part in parts[:-1]:
        for choice in part["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == [TEXT] * 3
    assert parts[-1]["usage"]["completion_tokens"] == 15
    assert sorted(body["seed"] for _, body in server.requests) == [5, 6, 7]


async def test_completions_go_to_the_native_endpoint(client, server):
    answer = (await complete(client, prompt=["a", "b"], n=2, max_tokens=1, echo=True)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["a Hello", "a Hello", "b Hello", "b Hello"]
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert answer["usage"]["prompt_tokens"] == 2
    assert answer["usage"]["completion_tokens"] == 4
    assert {path for path, _ in server.requests} == {"/generate"}
    assert server.sampled
    await complete(client, temperature=0, top_p=0.5, top_k=5)
    assert not server.sampled
    parts = chunks(await complete(client, max_tokens=2, stream=True, stream_options={"include_usage": True}))
    assert told(parts)[:3] == (" Hello the", "", "length")
    assert parts[-1]["usage"] | {"prompt_tokens_details": 0, "completion_tokens_details": 0} == {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
        "prompt_tokens_details": 0,
        "completion_tokens_details": 0,
    }


async def test_nothing_that_a_user_writes_is_fetched(client, server):
    evil = "![](http://169.254.169.254/latest)"
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    parts = [{"type": "text", "text": "!"}, {"type": "text", "text": evil[1:]}, picture, {"type": "text", "text": evil}]
    for messages in ([{"role": "user", "content": evil}], [{"role": "user", "content": parts}]):
        assert (await chat(client, messages=messages)).status_code == 200
    tool = {"type": "function", "function": {"name": "f", "description": evil, "parameters": {}}}
    assert (await chat(client, tools=[tool])).status_code == 200
    assert (await complete(client, prompt=evil)).status_code == 200
    assert server.fetched == []
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"min_p": 0.5}, "min_p"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
async def test_what_cannot_be_had_is_said_and_not_asked_for(client, server, fields, param):
    answer = await chat(client, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert server.requests == []


@pytest.mark.parametrize("stream", [True, False])
async def test_errors_have_a_status_even_in_streams(client, server, stream):
    for ask, param in ((chat, "messages"), (complete, "prompt")):
        too_long = {"messages": [{"role": "user", "content": "a " * 99}]} if ask is chat else {"prompt": "a " * 99}
        answer = await ask(client, stream=stream, **too_long)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert answer.json()["error"]["param"] == param
        answer = await ask(client, stream=stream, max_tokens=500)
        assert answer.json()["error"]["code"] == "context_length_exceeded"
    server.overloaded = True
    for ask in (chat, complete):
        answer = await ask(client, stream=stream)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"


async def test_a_key_that_the_server_refuses_is_not_the_clients(client, server):
    server.key = "other"
    answer = await chat(client)
    assert answer.status_code == 502
    assert "other" not in answer.text


async def test_our_key_reaches_it(server):
    server.key = "sesame"
    async with gateway(tgi_base_url=(server.url,), tgi_api_key="sesame") as client:
        assert (await chat(client)).status_code == 200


@pytest.mark.parametrize("says", [Says(error_after=1), Says(cut_after=1)])
async def test_a_stream_that_breaks_off_ends_honestly(client, server, says):
    server.says = says
    for ask in (chat, complete):
        answer = await ask(client, stream=True)
        if answer.status_code == 502:  # the end came together with the beginning
            continue
        *parts, error = chunks(answer)
        assert told(parts)[0] == " Hello"
        assert told(parts)[2] is None
        assert error["error"]["type"] == "RemoteEndpointError"


async def test_a_stream_that_breaks_off_at_once_has_a_status(client, server):
    server.says = Says(error_after=0)
    for ask in (chat, complete):
        assert (await ask(client, stream=True)).status_code == 502


async def test_its_model_is_listed(client):
    listed = (await client.get("/v1/models")).json()["data"]
    assert [row["id"] for row in listed] == ["org/tiny"]
    assert (await chat(client)).json()["model"] == "org/tiny"


async def test_speech_is_a_capability_it_has_not(client):
    answer = await client.post("/v1/audio/transcriptions", json={"audio_base64": "aGk=", "framework": "tgi"})
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "CapabilityNotSupported"


async def test_its_own_protocol_goes_through(client, server):
    """TGI's clients may stand in front of ILLM, whatever is behind it."""
    body = {"inputs": "Say:", "parameters": {"details": True, "truncate": 5, "stop": ["the"]}}
    answer = (await client.post("/generate", json=body)).json()
    assert answer["generated_text"] == " Hello the"
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert server.body["parameters"]["truncate"] == 5
    assert (await client.get("/info")).json()["model_id"] == "org/tiny"
    assert (await client.get("/health")).status_code == 200


async def test_embeddings_come_from_the_sibling(server, embedder):
    async with gateway(tgi_base_url=(server.url,), tei_base_url=(embedder.url,)) as client:
        answer = (await client.post("/v1/embeddings", json={"input": ["a", "abc"], "dimensions": 2})).json()
        assert [row["embedding"] for row in answer["data"]] == [[1.0, 0.5], [3.0, 0.5]]
        assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
        assert (await client.post("/v1/embeddings", json={"input": [1, 2]})).json()["data"][0]["embedding"][0] == 2.0
        packed = (await client.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"})).json()
        assert struct.unpack("<3f", b64decode(packed["data"][0]["embedding"])) == (1.0, 0.5, -0.25)
        assert (await chat(client)).status_code == 200
        assert server.requests[-1][0] == "/v1/chat/completions"
        models = [row["id"] for row in (await client.get("/v1/models")).json()["data"]]
        assert models == ["org/tiny", "org/embedder"]
        many = {"input": ["a" * (1 + at % 9) for at in range(70)]}
        answer = (await client.post("/v1/embeddings", json=many)).json()
        assert [row["embedding"][0] for row in answer["data"]] == [1 + at % 9 for at in range(70)]
        assert [row["index"] for row in answer["data"]] == list(range(70))
        assert answer["usage"]["prompt_tokens"] == sum(map(len, many["input"]))
        assert [len(body["input"]) for body in embedder.requests[-3:]] == [32, 32, 6]
        too_long = await client.post("/v1/embeddings", json={"input": "a" * 99})
        assert too_long.status_code == 400
        assert too_long.json()["error"]["code"] == "context_length_exceeded"
        assert too_long.json()["error"]["param"] == "input"
        embedder.overloaded = True
        assert (await client.post("/v1/embeddings", json={"input": "a"})).status_code == 429


async def test_embeddings_alone(embedder):
    async with gateway(tei_base_url=(embedder.url,)) as client:
        assert (await client.post("/v1/embeddings", json={"input": "a"})).status_code == 200
        answer = await chat(client)
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "TGI base_url is not configured"


async def test_without_the_sibling_there_are_none(client):
    answer = await client.post("/v1/embeddings", json={"input": "a"})
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "CapabilityNotSupported"


def event(index, text):
    value = {"index": index, "token": {"id": 5, "text": text, "logprob": -1.0, "special": False}}
    return b"data:%s\n\n" % orjson.dumps(value | {"generated_text": None, "details": None})


def probed(seen):
    return [response(b'{"model_id":"org/tiny"}', content_type="application/json")]


async def test_a_server_that_overlooked_the_stop_string_is_left():
    """It would write on for as long as it likes: the answer ends, and so does its work."""
    script = [head(content_type="text/event-stream"), event(1, "Blue") + event(2, "\n  ") + event(3, "more"), STALL]
    async with fake_server(script, probe=probed) as server, gateway(tgi_base_url=(server.url,)) as client:
        answer = await complete(client, stop="\n", stream=True)
        assert told(chunks(answer))[:3] == ("Blue", "", "stop")
        with anyio.fail_after(5):
            await server.until(lambda: server.left >= 1)


async def test_leaving_a_request_leaves_the_server():
    async with fake_server([STALL], probe=probed) as server, gateway(tgi_base_url=(server.url,)) as client:
        for stream in (True, False):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(complete, client, stream=stream))
                await server.until(lambda: server.requests)
                tasks.cancel_scope.cancel()
            server.requests.clear()
            with anyio.fail_after(5):
                await server.until(lambda: server.open <= 1)  # the probe's own

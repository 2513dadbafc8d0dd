"""The whole way: OpenAI's requests in, a strict Ollama behind, OpenAI's answers out, on both loops."""

import socket
from base64 import b64decode
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import httpx
import orjson
import pytest

from backends.remote.ollama_server import Says, running_ollama
from illm.actors.directory import Directory
from illm.actors.ref import State
from illm.asgi.app import Gateway
from illm.backends.remote.plan import plan_remote
from illm.config import Config

pytestmark = pytest.mark.anyio

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def server():
    with running_ollama() as ollama:
        yield ollama


@asynccontextmanager
async def gateway(url, *, state=State.READY):
    config = Config(framework="ollama", ollama_base_url=(url,))
    app = Gateway(config, lambda: Directory([plan_remote("ollama")(config)], default="ollama"))
    with anyio.fail_after(20):
        async with app.running() as directory:
            (ref,) = directory
            while ref.state is not state:
                await anyio.lowlevel.checkpoint()
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://illm", timeout=None) as client:
                yield client


@pytest.fixture
async def client(server):
    async with gateway(server.url) as client:
        yield client


def chat(model="plain", **fields):
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}


def chunks(response):
    assert response.headers["content-type"].startswith("text/event-stream")
    *frames, end, rest = response.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [orjson.loads(frame.removeprefix("data: ")) for frame in frames]


async def test_chat(client):
    answer = (await client.post("/v1/chat/completions", json=chat())).json()
    assert answer["model"] == "plain"
    assert answer["choices"][0]["message"]["content"] == "Hello there!"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 8


async def test_choices_are_fanned_out_streamed_and_counted(client, server):
    body = chat(n=3, seed=5, stream=True, stream_options={"include_usage": True})
    parts = chunks(await client.post("/v1/chat/completions", json=body))
    texts = ["", "", ""]
    for part in parts[:-1]:
        for choice in part["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == ["Hello there!"] * 3
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"]["prompt_tokens"] == 5
    assert parts[-1]["usage"]["completion_tokens"] == 9
    assert sorted(body["options"]["seed"] for _, body in server.requests) == [5, 6, 7]


async def test_prompts_are_fanned_out(client, server):
    body = {"model": "plain", "prompt": ["a", "b"], "n": 2, "max_tokens": 1, "echo": True}
    answer = (await client.post("/v1/completions", json=body)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["aHello", "aHello", "bHello", "bHello"]
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert answer["usage"]["prompt_tokens"] == 10
    assert answer["usage"]["completion_tokens"] == 4


async def test_one_refused_choice_refuses_all(client, server):
    response = await client.post("/v1/chat/completions", json=chat("nope", n=3))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_reasoning_and_tools_in_a_stream(client, server):
    server.says = Says(words=(), calls=[{"function": {"name": "f", "arguments": {"a": 1}}}])
    body = chat("qwen3:4b", tools=[TOOL], reasoning_effort="high", stream=True)
    choices = [part["choices"][0] for part in chunks(await client.post("/v1/chat/completions", json=body))]
    assert "".join(choice["delta"].get("reasoning_content") or "" for choice in choices) == "Hm..."
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls") or ()]
    assert [call["index"] for call in calls] == [0] * len(calls)
    assert next(call["id"] for call in calls if "id" in call).startswith("call_")
    assert "".join(call["function"].get("arguments", "") for call in calls) == '{"a":1}'
    assert choices[-1]["finish_reason"] == "tool_calls"


async def test_a_stream_that_breaks_off_says_so(client, server):
    server.says = Says(words=("x" * 1000,) * 1000, cut_after=900)  # more than one read, so that some of it has gone out
    response = await client.post("/v1/chat/completions", json=chat(stream=True))
    *_, last = chunks(response)
    assert last["error"]["code"] == "bad_upstream"


async def test_embeddings(client):
    body = {"model": "minilm", "input": ["a", "bb"], "encoding_format": "base64"}
    answer = (await client.post("/v1/embeddings", json=body)).json()
    assert [len(b64decode(row["embedding"])) for row in answer["data"]] == [16, 16]
    assert answer["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"logit_bias": {"1": 1}}, 400, "logit_bias"),
        ({"model": "qwen3:4b", "tools": [TOOL], "tool_choice": "required"}, 400, "tool_choice"),
        ({"tools": [TOOL]}, 422, "tools"),
        ({"reasoning_effort": "low"}, 400, "reasoning_effort"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, 400, "messages"),
    ],
)
async def test_refusals(client, fields, status, param):
    response = await client.post("/v1/chat/completions", json=chat() | fields)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


async def test_models_are_listed_and_found_under_both_names(client):
    listed = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
    assert {"qwen3:4b", "plain", "plain:latest"} <= set(listed)
    assert (await client.get("/v1/models/plain:latest")).status_code == 200


async def test_a_server_without_models_lists_a_placeholder(server):
    server.models = {}
    async with gateway(server.url) as client:
        assert [model["id"] for model in (await client.get("/models?framework=ollama")).json()["data"]] == ["ollama"]
        response = await client.post("/v1/chat/completions", json={"messages": chat()["messages"]})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_no_server_lists_a_placeholder_and_refuses_at_once():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with gateway(url, state=State.DOWN) as client:
            assert [model["id"] for model in (await client.get("/models")).json()["data"]] == ["ollama"]
            response = await client.post("/v1/chat/completions", json=chat(n=2))
            assert response.status_code == 503
            assert response.json()["error"]["type"] == "RemoteEndpointError"

"""The official OpenAI client, ILLM, and an Ollama: sound, and leaving; over real sockets, on both loops."""

import gc
import json
from base64 import b64encode
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from media.pictures import data_url, part, png

from backends.remote.fake_server import STALL, fake_server, head, response
from backends.remote.ollama_server import Says, running_ollama
from backends.remote.openai_gateway import HI, LEFT_BEHIND, OTHER, WAV, openai, transcribe
from backends.remote.serving import serving

pytestmark = [pytest.mark.anyio, LEFT_BEHIND]


@pytest.fixture
def server():
    with running_ollama() as ollama:
        yield ollama


@asynccontextmanager
async def gateway(url):
    async with (
        serving(framework="ollama", ollama_base_url=(url,)) as base,
        openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="any", max_retries=0) as client,
    ):
        yield client
        gc.collect()


@pytest.fixture
async def client(server):
    async with gateway(server.url) as client:
        yield client


async def test_speech_is_written_down(client, server):
    for word in ("json", "text"):
        told = await transcribe(client, model="ears", response_format=word, language="en")
        assert (told if word == "text" else told.text) == "Hello there!"
    path, form = server.requests[-1]
    assert (path, form["file"], form["language"]) == ("/v1/audio/transcriptions", WAV, "en")


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"response_format": "srt"}, "response_format"), ({"stream": True}, "stream")],
)
async def test_what_it_cannot_write_is_said(client, server, fields, param):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await transcribe(client, model="ears", **fields)
    assert (caught.value.type, caught.value.param) == ("CapabilityNotSupported", param)
    assert server.requests == []


async def test_whose_model_is_deaf(client):
    with pytest.raises(openai.NotFoundError) as caught:
        await transcribe(client, model="nope", extra_body={"framework": "ollama"})
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        await transcribe(client, model="plain")
    assert caught.value.type == "CapabilityNotSupported"


async def test_images_and_sound_in_a_chat(client, server):
    sound = {"type": "input_audio", "input_audio": {"data": b64encode(WAV).decode(), "format": "wav"}}
    image = part({"url": data_url(png())})
    for model, given, sent in (("ears", sound, WAV), ("llava:7b", image, png())):
        turns = [{"role": "user", "content": [{"type": "text", "text": "What?"}, given]}]
        answer = await client.chat.completions.create(model=model, messages=turns)
        assert answer.choices[0].message.content == "Hello there!"
        assert server.body["messages"][0]["images"] == [b64encode(sent).decode()]
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await client.chat.completions.create(model="plain", messages=turns)
        assert caught.value.type == "CapabilityNotSupported"


async def test_the_client_that_blocks(server):
    """The same client without `async`: a chat, a stream, thoughts and calls."""

    def drive(url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            create = partial(client.chat.completions.create, messages=HI)
            assert create(model="plain").choices[0].message.content == "Hello there!"
            assert "".join(one.choices[0].delta.content or "" for one in create(model="plain", stream=True)) == (
                "Hello there!"
            )
            server.says = Says(words=(), calls=[{"function": {"name": "g", "arguments": {}}}])
            message = create(model="qwen3:4b", tools=[OTHER], reasoning_effort="low").choices[0].message
            assert (message.reasoning_content, message.tool_calls[0].function.arguments) == ("Hm...", "{}")

    async with serving(framework="ollama", ollama_base_url=(server.url,)) as url:
        await anyio.to_thread.run_sync(drive, url)


def tags(seen):
    listed = {"models": [{"name": "plain:latest", "model": "plain:latest"}]}
    return [response(json.dumps(listed).encode(), content_type="application/json")]


def line(text):
    message = {"role": "assistant", "content": text}
    return json.dumps({"model": "plain", "message": message, "done": False}).encode() + b"\n"


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_before_the_first_byte(stream):
    """Nothing comes while a model is loaded either, so this is where most leave."""
    async with fake_server([STALL], probe=tags) as server, gateway(server.url) as client:
        await server.until(lambda: server.open == 0)  # what looked after the server has gone again
        async with anyio.create_task_group() as tasks:
            ask = partial(client.chat.completions.create, model="plain", messages=HI, stream=stream)
            tasks.start_soon(ask)
            await server.until(lambda: server.requests)
            assert server.open == 1
            tasks.cancel_scope.cancel()
        with anyio.fail_after(5):
            await server.until(lambda: server.open == 0)


@pytest.mark.parametrize("n", [1, 2])
async def test_leaving_in_the_middle(n):
    script = [head(content_type="application/x-ndjson"), line("a"), line("b"), STALL]
    async with fake_server(script, probe=tags) as server, gateway(server.url) as client:
        await server.until(lambda: server.open == 0)  # what looked after the server has gone again
        stream = await client.chat.completions.create(model="plain", messages=HI, stream=True, n=n)
        seen = 0
        async for chunk in stream:
            seen += bool(chunk.choices[0].delta.content)
            if seen == n:
                break
        assert server.open == n
        await stream.close()
        del stream
        gc.collect()
        with anyio.fail_after(5):
            await server.until(lambda: server.open == 0)

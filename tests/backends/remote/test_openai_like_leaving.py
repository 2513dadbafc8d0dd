"""A client that goes takes its request along, seen by the server's own counts: over real sockets, on both loops."""

import gc
from functools import partial

import anyio
import pytest

from backends.remote.openai_gateway import HI, LEFT_BEHIND, openai
from backends.remote.openai_server import Says
from backends.remote.serving import serving

pytestmark = [pytest.mark.anyio, LEFT_BEHIND]


@pytest.fixture
async def url(server):
    async with serving(framework=server.kind, **{f"{server.kind}_base_url": (server.url,)}) as url:
        yield f"{url}/v1"
        gc.collect()


async def until(server, condition):
    """Wait for the server's counts, in a thread; soon, or not at all."""
    with anyio.fail_after(10):
        await anyio.to_thread.run_sync(server.until, condition, abandon_on_cancel=True)


async def gone(server):
    await until(server, lambda: (server.left, server.running) == (1, 0))


@pytest.mark.parametrize("stream", [True, False])
async def test_before_the_first_byte(server, url, stream):
    server.says = Says(stall_after=0)
    async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
        async with anyio.create_task_group() as tasks:
            ask = partial(client.chat.completions.create, model="m1", messages=HI, stream=stream)
            tasks.start_soon(ask)
            await until(server, lambda: server.running == 1)
            assert server.left == 0
            tasks.cancel_scope.cancel()
        await gone(server)
        server.says = Says()
        assert (await client.chat.completions.create(model="m1", messages=HI)).choices


@pytest.mark.parametrize("n", [1, 2])
async def test_in_the_middle_of_a_stream(server, url, n):
    server.says = Says(tokens=("a",) * 9, stall_after=6)
    async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
        stream = await client.chat.completions.create(model="m1", messages=HI, stream=True, n=n)
        texts = 0
        async for chunk in stream:
            texts += bool(chunk.choices[0].delta.content)
            if texts == 3:
                break
        assert (server.left, server.running) == (0, 1)
        await stream.close()
        del stream
        gc.collect()
        await gone(server)


async def test_before_a_transcript_comes(server, url):
    server.says = Says(stall_after=0)
    async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
        async with anyio.create_task_group() as tasks:
            ask = partial(client.audio.transcriptions.create, model="m1", file=("a.wav", b"RIFF"))
            tasks.start_soon(ask)
            await until(server, lambda: server.running == 1)
            tasks.cancel_scope.cancel()
        await gone(server)


async def test_the_client_that_blocks(server, url):
    """The same client without `async`: a chat, a stream, calls, and leaving."""

    def drive():
        with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
            create = partial(client.chat.completions.create, model="m1", messages=HI)
            assert create().choices[0].message.content == " Hello there!"
            text = "".join(chunk.choices[0].delta.content or "" for chunk in create(stream=True))
            assert text == " Hello there!"
            server.says = Says(calls=[("f", ("{}",))])
            tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
            [call] = create(tools=[tool]).choices[0].message.tool_calls
            assert call.function.arguments == "{}"
            server.says = Says(stall_after=2)
            stream = create(stream=True)
            assert next(stream).choices
            stream.close()
            server.until(lambda: (server.left, server.running) == (1, 0))

    with anyio.fail_after(30):
        await anyio.to_thread.run_sync(drive)


async def test_a_stream_read_to_its_end_keeps_its_connection(server, url):
    async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
        before = server.accepted
        for _ in range(5):
            stream = await client.chat.completions.create(model="m1", messages=HI, stream=True)
            assert [chunk async for chunk in stream]
            await client.chat.completions.create(model="m1", messages=HI)
        assert server.accepted <= before + 1
        assert server.left == 0

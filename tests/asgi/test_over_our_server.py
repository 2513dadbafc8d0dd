"""The application on our own server, over real sockets."""

import logging
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from asgi.driver import chat
from asgi.wire import asking
from illm.server import Limits, serve

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


@asynccontextmanager
async def serving(app, *, shutdown=None, **limits):
    """Serve while the block lasts; yields the address."""
    shutdown = shutdown or anyio.Event()

    async def run(task_status):
        await serve(app, port=0, limits=Limits(**limits), shutdown=shutdown, task_status=task_status)

    async with anyio.create_task_group() as tasks:
        (address,) = await tasks.start(lambda *, task_status: run(task_status))
        found = await app._runtime.directory()
        while found.status == "loading":
            await anyio.lowlevel.checkpoint()
        yield address
        shutdown.set()


@asynccontextmanager
async def client_of(address):
    host, port = address
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
        yield client


async def ask(client, prompt, **more):
    request = chat(prompt, **more)
    return await client.post(CHAT, content=request["body"], headers=request["headers"])


async def test_chat(make_app):
    async with serving(make_app()) as address, client_of(address) as client:
        response = await ask(client, "echo hi")
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "hi"
    assert response.headers["x-request-id"]


async def test_a_token_arrives_before_the_next_one_is_made(make_app, stage):
    async with serving(make_app()) as address:
        async with asking(address, "drip a", stream=True) as wire:
            for number in range(5):
                await wire.until(f'"content":"{number} "')
                assert f'"content":"{number + 1} "'.encode() not in wire.received
                stage.cases["a"].step()
        await stage.cases["a"].gone.wait()
    assert wire.received.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_first_token_stops_the_work(make_app, stage, stream):
    async with serving(make_app()) as address:
        async with asking(address, "hold a", stream=stream):
            await stage.cases["a"].held.wait()
        await stage.cases["a"].gone.wait()


async def test_leaving_while_queued_frees_the_place(make_app, stage):
    app = make_app()
    async with serving(app) as address, asking(address, "hold a", model="narrow"):
        await stage.cases["a"].held.wait()
        inbox = (await app._runtime.directory()).list()[1].inbox
        async with asking(address, "hold b", model="narrow"):
            while inbox.waiting == 0:
                await anyio.lowlevel.checkpoint()
        while inbox.waiting:
            await anyio.lowlevel.checkpoint()
        stage.cases["a"].step()
        async with client_of(address) as client:
            assert (await ask(client, "echo c", model="narrow")).status_code == 200
    assert not stage.cases["b"].held.is_set()


@pytest.mark.parametrize("prompt", ["late-crash a", "late-refusal a", "late-death a"])
async def test_failure_in_the_middle_is_an_event_in_a_response_that_ends(make_app, stage, prompt):
    async with serving(make_app()) as address, asking(address, prompt, stream=True) as wire:
        await wire.until("begun")
        stage.cases["a"].step()
        assert await wire.to_the_end()
    assert b'data: {"error":{' in wire.received
    assert b"data: [DONE]" in wire.received
    assert b'"finish_reason":"' not in wire.received


async def test_a_bug_in_the_middle_cuts_the_connection(make_app, stage, caplog):
    async with serving(make_app()) as address, asking(address, "late-nonsense a", stream=True) as wire:
        await wire.until("begun")
        stage.cases["a"].step()
        assert not await wire.to_the_end()
    assert b"[DONE]" not in wire.received
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_reader_that_stops_is_dropped_and_stalls_nobody(make_app, stage):
    app = make_app()
    async with (
        serving(app, write_timeout=1.0) as address,
        client_of(address) as client,
        asking(address, "flood 60000 100000", stream=True) as stalled,
    ):
        await stalled.until("xxx")  # and no more
        ref = (await app._runtime.directory()).list()[0]
        answered = 0
        while ref.busy:  # until the server's patience is over
            assert (await ask(client, "echo quick", model="narrow")).status_code == 200
            answered += 1
        assert answered
        assert not await stalled.to_the_end()


async def test_a_slash_in_a_models_name_may_be_encoded(make_app):
    async with serving(make_app()) as address, client_of(address) as client:
        await ask(client, "echo a", model="org/stranger")
        raw = await client.get("/v1/models/org/stranger")
        encoded = await client.get("/v1/models/org%2Fstranger")
    assert raw.json() == encoded.json()
    assert raw.json()["id"] == "org/stranger"


async def test_head_has_no_body(make_app):
    async with serving(make_app()) as address, client_of(address) as client:
        head, get = await client.head("/healthz"), await client.get("/healthz")
        refused = await client.head(CHAT)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


async def test_a_large_body_is_refused_before_it_is_sent(make_app):
    """A client that asks first (`Expect`) is told no instead of to go on."""
    async with serving(make_app(max_body_bytes=1024)) as address, await anyio.connect_tcp(*address) as stream:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n"
        await stream.send(f"{head}content-length: 2048\r\n\r\n".encode())
        answer = await stream.receive()
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_the_end_of_the_server_lets_a_stream_finish(make_app, stage):
    app, shutdown = make_app(), anyio.Event()
    async with serving(app, shutdown=shutdown) as address, asking(address, "late-refusal a", stream=True) as wire:
        await wire.until("begun")
        found = await app._runtime.directory()
        shutdown.set()
        while not found.draining:
            await anyio.lowlevel.checkpoint()
        stage.cases["a"].step()
        assert await wire.to_the_end()
    assert b"data: [DONE]" in wire.received


async def test_clients_that_leave_are_no_news(make_app, stage, caplog):
    async with serving(make_app()) as address:
        for name in "abc":
            async with asking(address, f"drip {name}", stream=True) as wire:
                await wire.until('"0 "')
            await stage.cases[name].gone.wait()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

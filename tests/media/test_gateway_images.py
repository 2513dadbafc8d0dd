"""Images through the whole application: fetched before the backend sees the request, and for nobody who has left."""

from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import anyio
import orjson
import pytest
from asgi.tgi_scripted import Script, Scripted, serving
from backends.remote.fake_server import STALL, fake_server, response

from illm.actors.directory import Directory
from illm.actors.ref import Served
from illm.asgi.app import Gateway, create_app
from illm.config import Config
from illm.core.capabilities import Capability
from illm.core.requests import Image, Text
from media.pictures import data_url, part, png

pytestmark = pytest.mark.anyio

SEES = frozenset({Capability.CHAT, Capability.STREAMING, Capability.IMAGES, Capability.AUDIO})


class Backend:
    """One model, with the capabilities a test gives it."""

    framework = "tgi"

    def __init__(self, script: Script, capabilities: frozenset[Capability]) -> None:
        self._served = Served(
            framework="tgi", model="org/model", capabilities=capabilities, make_actor=partial(Scripted, script)
        )

    def named(self):
        return (self._served,)

    def on_demand(self, model, need):
        return self._served

    def default(self, need):
        return self._served.model


def gateway(script: Script, capabilities: frozenset[Capability] = SEES, **said: object) -> Gateway:
    config = Config(framework="tgi", **said)
    return Gateway(config, lambda: Directory([Backend(script, capabilities)], default="tgi"))


def asking(*parts: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "See:"}, *parts]}]}


async def refusal(app: Gateway, *parts: object) -> tuple[int, dict[str, object]]:
    async with serving(app) as client:
        answer = await client.post("/v1/chat/completions", json=asking(*parts))
        return answer.status_code, answer.json()["error"]


async def test_a_backend_gets_what_was_fetched():
    script = Script()
    async with fake_server(probe=[response(png())]) as server:
        app = gateway(script, allow_image_hosts=("127.0.0.1",), allow_image_ports=(urlsplit(server.url).port,))
        async with serving(app) as client:
            answer = await client.post("/v1/chat/completions", json=asking(part(server.url), part(data_url(png()))))
            assert answer.status_code == 200
            answer = await client.post("/v1/chat/completions", json={**asking(part(server.url)), "stream": True})
            assert answer.text.endswith("data: [DONE]\n\n")
    first, _ = script.requests
    assert first.messages[0].content == (Text("See:"), *[Image(url=data_url(png()))] * 2)
    assert first.body["messages"][0]["content"][1] == part({"url": data_url(png())})


async def test_a_refusal_is_a_plain_400():
    script = Script()
    status, error = await refusal(gateway(script), part("http://127.0.0.1:80/secret"))
    assert status == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == "messages[0].content[1]"
    assert "127.0.0.1" not in error["message"]
    assert script.requests == []


@pytest.mark.parametrize("also", [[], [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]])
async def test_a_backend_that_sees_nothing_fetches_nothing(also):
    async with fake_server() as server:
        app = gateway(
            script := Script(),
            SEES - {Capability.IMAGES},
            allow_image_hosts=("127.0.0.1",),
            allow_image_ports=(urlsplit(server.url).port,),
        )
        status, error = await refusal(app, part(server.url), *also)
        assert server.accepted == 0
    assert (status, error["type"]) == (422, "CapabilityNotSupported")
    assert "images" in error["message"]
    assert script.requests == []


async def test_nothing_is_fetched_for_a_backend_that_is_down():
    async with fake_server(probe=[response(png())]) as server, fake_server() as gone:
        address = gone.url
        await gone.stop()
        port = urlsplit(server.url).port
        config = Config(
            framework="vllm", vllm_base_url=(address,), allow_image_hosts=("127.0.0.1",), allow_image_ports=(port,)
        )
        async with serving(create_app(config)) as client:
            answer = await client.post("/v1/chat/completions", json=asking(part(server.url)))
            while answer.json()["error"]["code"] == "not_ready":  # the first probe has not come back yet
                answer = await client.post("/v1/chat/completions", json=asking(part(server.url)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "backend_unavailable")
        assert server.accepted == 0


async def test_who_leaves_takes_the_fetch_along():
    async with fake_server(probe=[STALL]) as server:
        port = urlsplit(server.url).port
        app = gateway(script := Script(), allow_image_hosts=("127.0.0.1",), allow_image_ports=(port,))
        async with serving(app) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(client.post, "/v1/chat/completions", json=asking(part(server.url))))
            await server.until(lambda: server.probes == 1)
            tasks.cancel_scope.cancel()
            with anyio.fail_after(10):
                with anyio.CancelScope(shield=True):
                    await server.until(lambda: server.open == 0)
        assert script.requests == []


@asynccontextmanager
async def foreign(app: Gateway, body: bytes):
    """Run one request as servers do that tell of a disconnect by `receive` alone; yields how to leave, and the end."""
    left, over = anyio.Event(), anyio.Event()
    sent: list[object] = []
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if unread:
            return unread.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}

    async def run():
        await app(scope, receive, send)
        over.set()

    async with app.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        yield left, over, sent
        tasks.cancel_scope.cancel()


async def test_who_leaves_a_foreign_server_takes_the_fetch_along():
    async with fake_server(probe=[STALL]) as server:
        port = urlsplit(server.url).port
        app = gateway(script := Script(), allow_image_hosts=("127.0.0.1",), allow_image_ports=(port,))
        with anyio.fail_after(10):
            async with foreign(app, orjson.dumps(asking(part(server.url)))) as (left, over, sent):
                await server.until(lambda: server.probes == 1)
                left.set()
                await over.wait()
                await server.until(lambda: server.open == 0)
    assert sent == []
    assert script.requests == []


async def test_a_foreign_server_is_answered_after_a_fetch_and_after_a_refusal():
    async with fake_server(probe=[response(png())]) as server:
        port = urlsplit(server.url).port
        app = gateway(Script(), allow_image_hosts=("127.0.0.1",), allow_image_ports=(port,))
        for url, status in ((server.url, 200), ("http://10.0.0.1/", 400)):
            with anyio.fail_after(10):
                async with foreign(app, orjson.dumps(asking(part(url)))) as (_, over, sent):
                    await over.wait()
            assert sent[0]["status"] == status

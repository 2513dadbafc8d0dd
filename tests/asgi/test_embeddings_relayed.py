"""An embeddings server that speaks OpenAI's dialect: its vectors pass through the application as they are."""

import anyio
import anyio.lowlevel
import httpx
import pytest
from backends.remote.tei_server import running_tei

from illm.actors.directory import Directory
from illm.actors.ref import State
from illm.asgi.app import Gateway
from illm.backends.remote.plan import plan_remote
from illm.config import Config

pytestmark = pytest.mark.anyio


async def test_relayed_vectors_arrive():
    with running_tei() as tei, anyio.fail_after(20):
        config = Config(framework="vllm", vllm_base_url=(tei.url,))
        app = Gateway(config, lambda: Directory([plan_remote("vllm")(config)], default="vllm"))
        async with app.running() as directory:
            (ref,) = directory
            while ref.state is not State.READY:
                await anyio.lowlevel.checkpoint()
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://illm", timeout=None) as client:
                answer = (await client.post("/v1/embeddings", json={"input": ["a", "abc"], "model": "m"})).json()
    assert sorted((row["index"], row["embedding"][0]) for row in answer["data"]) == [(0, 1.0), (1, 3.0)]
    assert answer["model"] == "m"
    assert answer["usage"]["prompt_tokens"] == 4

"""Against real servers, where there are any: whichever `ILLM_*_BASE_URL` are set, and an Ollama on this machine.

ILLM_VLLM_BASE_URL=http://gpu:8001 pytest tests/test_conditional_backends.py -rs
"""

import os

import anyio
import httpx
import pytest

import illm
from illm.config import environment_name, load

pytestmark = pytest.mark.anyio

OLLAMA = "http://127.0.0.1:11434"
CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}


def configured(framework: str) -> str:
    """Return the address of a framework's server, or skip and say why."""
    variable = environment_name(f"{framework}_base_url")
    address = os.environ.get(variable)
    if address:
        return address
    if framework == "ollama":
        try:
            httpx.get(f"{OLLAMA}/api/version", timeout=2).raise_for_status()
        except httpx.HTTPError as error:
            pytest.skip(f"{variable} is not set and no Ollama answers at {OLLAMA} ({type(error).__name__})")
        return OLLAMA
    pytest.skip(f"{variable} is not set")


@pytest.fixture(params=["vllm", "sglang", "tgi", "ollama"])
def framework(request) -> str:
    """Each framework whose server can be reached."""
    configured(request.param)
    return request.param


async def post(framework, body):
    """Ask the application for a chat, by this framework."""
    environment = {
        **os.environ,
        "ILLM_FRAMEWORK": framework,
        environment_name(f"{framework}_base_url"): configured(framework),
    }
    app = illm.create_app(load(environment))
    async with app.running():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=100) as client:
            with anyio.move_on_after(30):
                while (await client.get("/healthz")).json()["status"] == "loading":  # noqa: ASYNC110 - no event
                    await anyio.sleep(0.1)
            models = (await client.get("/v1/models", params={"framework": framework})).json()["data"]
            named = {"model": models[0]["id"]} if models else {}
            return await client.post("/v1/chat/completions", json={**body, "framework": framework, **named})


async def test_a_chat_is_answered(framework):
    response = await post(framework, CHAT)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 8


async def test_a_chat_is_streamed(framework):
    response = await post(framework, {**CHAT, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    assert '"finish_reason":' in response.text

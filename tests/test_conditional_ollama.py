"""Our Ollama dialect against the API that SGLang copied from Ollama: a second reading of the same protocol."""

import os

import httpx
import pytest

openai = pytest.importorskip("openai", reason="the official client is in the extra `test`")

from real.asked import ENDLESS, LONG, PLAIN, QUESTION  # noqa: E402
from real.gateway import served  # noqa: E402
from real.known import KIND, SERVER, address, asked_directly, key  # noqa: E402
from real.load import await_running  # noqa: E402

pytestmark = pytest.mark.timeout(400)

ANSWER = "The capital of France is Paris."


@pytest.fixture(scope="module")
def direct():
    """Return a client of the server itself; skips one that does not answer as Ollama does."""
    framework = os.environ.get("REAL_FRAMEWORK", "sglang")
    with asked_directly(framework) as client:
        body = {"model": "any", "messages": QUESTION, "stream": False, "options": {"num_predict": 1}}
        said = client.post("/api/chat", json=body)
        if said.status_code != 200 or "done" not in said.json():
            assert (SERVER, KIND) != ("sglang", "text")
            pytest.skip(f"to Ollama's /api/chat the server says {said.status_code}: {said.text[:200]}")
        yield client


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def client(request, direct):
    """The official client, with ILLM between it and the server."""
    framework = os.environ.get("REAL_FRAMEWORK", "sglang")
    environment = {
        **os.environ,
        "ILLM_FRAMEWORK": "ollama",
        "ILLM_OLLAMA_BASE_URL": address(framework),
        "ILLM_OLLAMA_API_KEY": key(framework) or "",
    }
    with (
        served(environment, request.param) as url,
        openai.OpenAI(base_url=url, api_key="any", max_retries=0, timeout=300) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def model(client) -> str:
    """The first model of `/api/tags`."""
    return client.models.list(extra_query={"framework": "ollama"}).data[0].id


@pytest.fixture(scope="module")
def asked(model):
    """What is asked of it; the framework is named, because the model's name is known by two."""
    return {**PLAIN, "model": model, "extra_body": {"framework": "ollama"}}


def test_models(client, direct, model):
    assert model in [row["name"] for row in direct.get("/api/tags").json()["models"]]
    health = str(client.base_url).removesuffix("/v1/") + "/healthz"
    providers = httpx.get(health, timeout=30, trust_env=False).json()["providers"]
    assert [provider["state"] for provider in providers if provider["framework"] == "ollama"] == ["ready"]


def test_chat(client, asked):
    answer = client.chat.completions.create(**asked)
    (choice,) = answer.choices
    assert choice.message.content.strip() == ANSWER
    assert choice.finish_reason == "stop"
    assert answer.usage.completion_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streamed(client, asked):
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert streamed.strip() == ANSWER
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert [chunk.usage for chunk in chunks if chunk.usage] == [chunks[-1].usage]


def test_completions(client, asked, model):
    wanted = {"model": model, "max_tokens": 8, "temperature": 0, "extra_body": asked["extra_body"]}
    answer = client.completions.create(**wanted, prompt=["Paris is the capital of", "One, two, three,"])
    assert "France" in answer.choices[0].text
    assert "four" in answer.choices[1].text
    pieces = list(client.completions.create(**wanted, prompt="Paris is the capital of", stream=True))
    streamed = "".join(choice.text for piece in pieces for choice in piece.choices)
    assert streamed.startswith(" France")


def test_several_choices(client, asked):
    answer = client.chat.completions.create(**asked, n=2)
    assert [choice.message.content.strip() for choice in answer.choices] == [ANSWER, ANSWER]


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_fails_without_a_word(client, asked, stream):
    """To a prompt that is too long the copy says 500 and nothing else; its stream begins well, and breaks off."""
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(**{**asked, "messages": LONG}, stream=stream)
    assert raised.value.status_code == 502
    assert raised.value.type == "RemoteEndpointError"


def test_a_stream_that_is_left_stops_the_server(client, direct, model):
    assert await_running(direct, range(1), 60)
    asked = {"model": model, **ENDLESS, "extra_body": {"framework": "ollama"}}
    stream = client.chat.completions.create(**asked, stream=True)
    assert [next(stream) for _ in range(3)]
    assert await_running(direct, range(1, 2), 30)
    stream.close()
    assert await_running(direct, range(1), 20)

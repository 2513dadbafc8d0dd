"""Which backend and model answers, what `/healthz` and the model lists say of them, and when there is no room."""

import time

import anyio
import pytest

from asgi.driver import chat, driving
from illm.actors.ref import State
from illm.errors import GatewayError, Kind

pytestmark = pytest.mark.anyio


async def test_the_framework_and_the_model_are_taken_from_the_body(make_app, stage):
    async with driving(make_app()) as driver:
        default = await driver.chat("echo a")
        named = await driver.chat("echo a", model="narrow", framework="transformers")
    assert default.json["model"] == "script"
    assert named.json["model"] == "narrow"


async def test_an_unknown_framework_is_a_400_and_an_unknown_model_a_404(make_app):
    async with driving(make_app()) as driver:
        framework = await driver.chat("echo a", framework="none")
        model = await driver.chat("echo a", model="none")
    assert (framework.status, framework.error["param"]) == (400, "framework")
    assert (model.status, model.error["code"], model.error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(("framework", "message"), [
    ("vllm", "Remote base_url is not configured"),
    ("sglang", "Remote base_url is not configured"),
    ("tgi", "TGI base_url is not configured"),
])  # fmt: skip
@pytest.mark.parametrize("model", [{}, {"model": "gpt2"}])
async def test_a_backend_that_nobody_configured_says_so(make_app, framework, message, model):
    async with driving(make_app()) as driver:
        for stream in (False, True):
            talk = await driver.chat("echo a", framework=framework, stream=stream, **model)
            assert talk.status == 503
            assert talk.headers["x-should-retry"] == "false"
            assert "retry-after" not in talk.headers
            assert talk.error == {
                "message": message,
                "type": "RemoteEndpointError",
                "param": None,
                "code": "not_configured",
            }


async def test_an_image_for_a_model_without_eyes_is_a_422(make_app):
    content = [{"type": "image_url", "image_url": "https://example.org/a.png"}]
    async with driving(make_app()) as driver:
        talk = await driver.chat("", messages=[{"role": "user", "content": content}])
    assert talk.status == 422
    assert talk.error["type"] == "CapabilityNotSupported"


async def test_a_model_that_only_a_request_names_is_started_and_answers(make_app):
    async with driving(make_app()) as driver:
        talk = await driver.chat("echo a", model="org/stranger")
        listed = await driver.get("/v1/models")
    assert talk.json["model"] == "org/stranger"
    assert "org/stranger" in [model["id"] for model in listed.json["data"]]


async def test_a_full_mailbox_is_a_429_with_retry_after(make_app, stage):
    async with driving(make_app()) as driver:
        driver.begin_chat("hold a", model="narrow")
        await stage.cases["a"].held.wait()
        waiting = [driver.begin_chat("echo b", model="narrow", stream=True) for _ in range(2)]
        await anyio.wait_all_tasks_blocked()
        refused = await driver.chat("echo c", model="narrow", stream=True)
        other = await driver.chat("echo d")
        stage.cases["a"].step()
        for talk in waiting:
            await talk.over.wait()
    assert refused.status == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.error["type"] == "rate_limit_error"
    assert other.status == 200
    assert [talk.status for talk in waiting] == [200, 200]


async def test_while_loading_everything_is_a_503_with_retry_after(make_app, stage):
    stage.starting = anyio.Event()
    async with driving(make_app(), loaded=False) as driver:
        health = await driver.get("/healthz")
        talk = await driver.chat("echo a")
        stage.starting.set()
        await driver.loaded()
        later = await driver.chat("echo a")
        healthy = await driver.get("/healthz")
    assert (health.status, health.json["status"]) == (503, "loading")
    assert health.json["providers"][0]["state"] == "starting"
    assert talk.status == 503
    assert talk.headers["retry-after"] == "1"
    assert talk.error["code"] == "not_ready"
    assert later.status == 200
    assert (healthy.status, healthy.json["status"]) == (200, "ok")


async def test_health_shows_every_provider(make_app, stage):
    async with driving(make_app()) as driver:
        driver.begin_chat("hold a", model="narrow")
        await stage.cases["a"].held.wait()
        health = await driver.get("/healthz")
    assert health.headers["cache-control"] == "no-store"
    providers = {provider["framework"]: provider for provider in health.json["providers"]}
    assert list(providers) == ["transformers", "vllm", "sglang", "tgi", "ollama"]
    assert providers["vllm"] == {"framework": "vllm", "state": "idle", "capabilities": [], "models": []}
    ours = providers["transformers"]
    assert ours["state"] == "ready"
    assert ours["capabilities"] == ["chat", "completions", "embeddings", "streaming"]
    narrow = next(model for model in ours["models"] if model["id"] == "narrow")
    assert narrow == {
        "id": "narrow",
        "state": "ready",
        "capabilities": ["chat", "completions", "streaming"],
        "waiting": 0,
        "active": 1,
        "restarts": 0,
    }


async def test_a_backend_that_failed_degrades_health_and_keeps_the_rest(make_app):
    async with driving(make_app()) as driver:
        await driver.chat("die", model="narrow")
        while (await driver.directory()).list()[1].state is State.READY:
            await anyio.lowlevel.checkpoint()
        health = await driver.get("/healthz")
        refused = await driver.chat("echo a", model="narrow")
        other = await driver.chat("echo a")
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert health.json["providers"][0]["state"] == "restarting"
    assert "crashed" in health.json["providers"][0]["models"][1]["problem"]
    assert refused.status == 503
    assert other.status == 200


async def test_draining_refuses_new_work_and_finishes_the_old(make_app, stage):
    async with driving(make_app()) as driver:
        running = driver.begin_chat("hold a", stream=True)
        await stage.cases["a"].held.wait()
        driver.app.begin_drain()
        health = await driver.get("/healthz")
        refused = await driver.chat("echo b")
        stage.cases["a"].step()
        await running.over.wait()
    assert (health.status, health.json["status"]) == (503, "draining")
    assert (refused.status, refused.error["code"]) == (503, "shutting_down")
    assert running.text == "held"


@pytest.mark.parametrize("path", ["/models", "/v1/models"])
async def test_models_are_listed(make_app, path):
    async with driving(make_app()) as driver:
        everything = await driver.get(path)
        ours = await driver.get(path, query="framework=transformers")
        theirs = await driver.get(path, query="framework=vllm")
        guessed = await driver.get(path, query="framework=ollama")
        unknown = await driver.get(path, query="framework=none")
    assert everything.json["object"] == "list"
    assert [model["id"] for model in everything.json["data"]] == ["script", "narrow", "embed"]
    first = everything.json["data"][0]
    assert 0 <= time.time() - first.pop("created") < 60
    assert first == {"id": "script", "object": "model", "owned_by": "transformers"}
    assert ours.json == everything.json
    assert theirs.json["data"] == []
    assert [model["id"] for model in guessed.json["data"]] == ["ollama"]
    assert (unknown.status, unknown.error["param"]) == (400, "framework")


@pytest.mark.parametrize("prefix", ["/models/", "/v1/models/"])
async def test_one_model_is_shown_even_with_a_slash_in_its_name(make_app, prefix):
    async with driving(make_app()) as driver:
        await driver.chat("echo a", model="org/stranger")
        shown = await driver.get(f"{prefix}org/stranger")
        elsewhere = await driver.get(f"{prefix}script", query="framework=vllm")
        unknown = await driver.get(f"{prefix}none")
    assert shown.json["id"] == "org/stranger"
    assert elsewhere.status == 404
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("path", "root_path"), [
    ("/v1/models", ""),
    ("/llm/v1/models", "/llm"),
    ("/llm/v1/models", "/llm/"),
    ("/v1/models", "/llm"),  # a server that takes the mount point off the path
])  # fmt: skip
async def test_the_mount_point_is_honoured(make_app, path, root_path):
    async with driving(make_app()) as driver:
        talk = await driver.get(path, root_path=root_path)
    assert talk.status == 200


async def test_a_slow_reader_stalls_nobody_else(make_app, way):
    async with driving(make_app(), way) as driver:
        slow = driver.begin_chat("flood 1000 500", stream=True, slow=True)
        await slow.sending.wait()
        for _ in range(3):
            assert (await driver.chat("echo quick")).status == 200
        assert not slow.over.is_set()
        slow.let()
        await slow.over.wait()
    assert len(slow.text) == 500_000


async def test_the_same_refusal_again_and_again_keeps_no_frames(make_app, stage):
    """A failed actor raises one and the same error for every request."""
    stage.starting = anyio.Event()
    app = make_app()
    async with driving(app, loaded=False) as driver:
        ref = (await driver.directory()).list()[0]
        await anyio.wait_all_tasks_blocked()
        ref.state, ref.problem = State.FAILED, GatewayError(Kind.MODEL_LOAD_FAILED, "no such file")
        for _ in range(5):
            talk = await driver.ask("/v1/chat/completions", **chat("echo a"))
            assert talk.error["message"] == "no such file"
        assert ref.problem.__traceback__ is None

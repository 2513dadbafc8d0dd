"""Bytes that are no request, and random JSON that must never raise anything of its own."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illm.dialects.openai import (
    decode_body,
    parse_chat,
    parse_completion,
    parse_embeddings,
    parse_transcription_json,
    unsupported,
)
from illm.dialects.openai.json_body import MAX_DEPTH
from illm.dialects.openai.parameters import EVERY_FIELD, OPTIONAL
from illm.errors import GatewayError, Kind


def nested(depth, opening=b'{"a":', core=b"1", closing=b"}"):
    return opening * depth + core + closing * depth


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b"{", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": Infinity}', "not valid JSON"),
        (b'{"a": 1e999}', "not valid JSON"),
        (b'{"a": 1} {"b": 2}', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b'{"a": "\\udc00\\ud800"}', "not valid JSON"),
        ('{"a": "\ufeff"}'.encode("utf-16"), "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'"text"', "object"),
        (b"3", "object"),
        (nested(MAX_DEPTH + 1), "deep"),
        (b'{"a":' + nested(MAX_DEPTH, b"[", b"", b"]") + b"}", "deep"),
        (nested(5000), "not valid JSON"),
        (nested(200_000, b"[", b"", b""), "not valid JSON"),
    ],
)
def test_a_body_that_is_no_request(raw, hint):
    with pytest.raises(GatewayError) as caught:
        decode_body(raw)
    assert caught.value.kind is Kind.INVALID_REQUEST
    assert hint in caught.value.message


def test_brackets_in_texts_and_wide_bodies_are_not_depth():
    assert decode_body(orjson.dumps({"a": "[" * 1000})) == {"a": "[" * 1000}
    wide = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}] * 500}
    assert decode_body(orjson.dumps(wide)) == wide
    assert decode_body(nested(MAX_DEPTH)) == orjson.loads(nested(MAX_DEPTH))


def test_what_is_accepted_can_be_written_again():
    body = decode_body(nested(MAX_DEPTH))
    assert orjson.loads(orjson.dumps(body)) == body


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
json_values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=5), scalars, max_size=3)
parts = st.dictionaries(
    st.sampled_from(["type", "text", "image_url", "image_base64", "refusal"]),
    st.sampled_from(["text", "image_url", "image_base64", "refusal", "file"]) | json_values,
)
messages = st.dictionaries(
    st.sampled_from(["role", "content", "name", "refusal", "tool_calls"]),
    st.sampled_from(["system", "user", "assistant", "tool"]) | json_values | st.lists(parts, max_size=2),
)
GOOD = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x", "audio_base64": "AAAA"}
names = st.sampled_from([*sorted(EVERY_FIELD), *OPTIONAL, *GOOD, "response_format", "language", "x"])
requests = st.dictionaries(names, json_values | st.lists(messages, max_size=2), max_size=4)

PARSERS = [parse_chat, parse_completion, parse_embeddings, parse_transcription_json, unsupported]


@settings(deadline=None, max_examples=300)
@given(requests)
def test_a_parser_raises_gateway_errors_or_nothing(changes):
    for parse in PARSERS:
        error = error_of(parse, GOOD | changes)
        assert error is None or (error.message and error.kind.value.status in (400, 413, 422))


@settings(deadline=None)
@given(st.binary(max_size=64) | json_values.map(lambda value: orjson.dumps(str(value))))
def test_any_bytes_decode_to_an_object_or_a_gateway_error(raw):
    error = error_of(decode_body, raw)
    assert error is None or error.kind is Kind.INVALID_REQUEST


def error_of(act, *args):
    """Return the gateway's error, or `None`; anything else that is raised fails the test."""
    try:
        act(*args)
    except GatewayError as error:
        return error
    return None

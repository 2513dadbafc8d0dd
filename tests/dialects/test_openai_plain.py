"""The chat that asks for nothing special: read in one pass, and to the same result as the long way."""

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.core.requests import Chat, Message, Sampling, Text
from illm.dialects.openai import read_chat
from illm.dialects.openai.chat import ChatWire, parse_long
from illm.dialects.openai.parameters import BOOKKEEPING
from illm.dialects.openai.plain import PlainChat, plain_chat
from illm.errors import GatewayError

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
FULL = {
    "model": "m",
    "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": ""}],
    "max_tokens": 64,
    "temperature": 0.7,
    "top_p": 1,
    "top_k": 5,
    "min_p": 0,
    "repetition_penalty": 1.1,
    "presence_penalty": -2,
    "frequency_penalty": 2,
    "seed": -1,
    "stop": ["a", "b"],
    "n": 1,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
    "user": "u",
}


def test_every_plain_field_is_read_as_the_long_way_reads_it():
    chat = plain_chat(FULL)
    assert chat == parse_long(FULL)
    assert chat.plain
    assert not parse_long(FULL).plain
    assert set(FULL) | {"max_completion_tokens"} == set(PlainChat.__struct_fields__)
    assert chat.sampling == Sampling(
        max_tokens=64,
        temperature=0.7,
        top_p=1.0,
        top_k=5,
        min_p=0.0,
        repetition_penalty=1.1,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        seed=-1,
        stop=("a", "b"),
        ignore_eos=True,
    )


def test_a_plain_field_is_one_that_the_long_way_knows():
    assert set(PlainChat.__struct_fields__) <= set(ChatWire.__struct_fields__) | BOOKKEEPING


@pytest.mark.parametrize("more", [
    {"model": None},
    {"temperature": None},
    {"top_p": 0},
    {"top_k": 0},
    {"top_k": -1},
    {"max_tokens": 5, "max_completion_tokens": 5},
    {"n": 2},
    {"tools": []},
    {"logprobs": False},
    {"framework": "vllm"},
    {"guided_json": {}},
    {"stream_options": {"include_usage": True}},
    {"stream": True, "stream_options": {"include_usage": None}},
    {"stream": True, "stream_options": {"continuous_usage_stats": True}},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
    {"messages": [{"role": "user", "content": "a", "name": "b"}]},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "tool", "content": "a", "tool_call_id": "b"}]},
    {"messages": []},
    {"max_tokens": 0},
    {"temperature": "warm"},
    {"stop": ""},
])  # fmt: skip
def test_what_asks_for_more_is_read_the_long_way(more):
    assert plain_chat({**HELLO, **more}) is None


def test_a_changed_copy_is_not_plain():
    chat = plain_chat(HELLO)
    assert replace(chat) == chat
    assert not replace(chat).plain
    assert not replace(chat, model="other").plain


def test_equal_samplings_are_one():
    assert plain_chat(FULL).sampling is plain_chat({**FULL, "user": "other"}).sampling


def test_deep_nesting_is_refused_all_the_same():
    body = b'{"messages": [{"role": "user", "content": "a"}], "x": %s%s}' % (b"[" * 70, b"]" * 70)
    with pytest.raises(GatewayError, match="nests"):
        read_chat(body)


def values(*good):
    odd = st.sampled_from([None, 0, 1, -1, 2, 0.5, 1e300, True, "", "x", [], ["a"], {}, {"a": 1}])
    return st.one_of(*[st.sampled_from(good)] * 5, odd)


TEXTS = st.text(max_size=5)
MESSAGES = st.fixed_dictionaries(
    {"role": values("user", "system", "assistant", "developer", "tool"), "content": st.one_of(TEXTS, values("a"))},
    optional={"name": values("n"), "tool_calls": values([]), "refusal": values("r")},
)
BODIES = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES, max_size=3)},
    optional={
        "model": values("m"),
        "max_tokens": values(7),
        "max_completion_tokens": values(7),
        "temperature": values(0.7, 1),
        "top_p": values(0.9),
        "top_k": values(40),
        "min_p": values(0.1),
        "repetition_penalty": values(1.1),
        "presence_penalty": values(1.5),
        "frequency_penalty": values(-1.5),
        "seed": values(2**70, -(2**63)),
        "stop": values("s", ["s", "t"]),
        "n": values(1),
        "ignore_eos": values(True, False),
        "stream": values(True, False),
        "stream_options": values({"include_usage": True}, {"include_usage": False}, {"x": 1}),
        "user": values("u"),
        "tools": values([]),
        "vendor": values("v"),
    },
)


@given(BODIES)
def test_plain_is_what_the_long_way_makes_of_it(body):
    raw = orjson.dumps(body) if "seed" not in body or body["seed"] != 2**70 else None
    chat = plain_chat(body)
    if chat is not None:
        assert chat == parse_long(body)
        assert raw is None or read_chat(raw) == chat


def test_the_texts_of_a_plain_chat_are_its_messages():
    assert read_chat(orjson.dumps(FULL)) == Chat(
        messages=(Message("system", (Text("be brief"),)), Message("user", (Text(""),))),
        sampling=plain_chat(FULL).sampling,
        model="m",
        stream=True,
        include_usage=True,
    )

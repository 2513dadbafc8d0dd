"""What goes through an OpenAI-like backend as it is, both ways, and that it is what the long way would send."""

import copy
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.remote.recordings import cases, read
from illm.backends.remote import sglang, vllm
from illm.backends.remote.openai_like import REFUSED, OpenAILike, Quirks
from illm.backends.remote.relay import answer_body
from illm.backends.remote.repair import Asked, repair_answer
from illm.backends.remote.untouched import drop_empty, untouched
from illm.config import Config
from illm.core.events import Done, Raw, Usage
from illm.dialects.openai import parse_chat, parse_completion, read_chat
from illm.dialects.openai.plain import PlainChat, plain_chat
from illm.errors import GatewayError

DIALECTS = [vllm.dialect(Config()), sglang.dialect(Config())]
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def long_way(chat):
    """A copy is not plain, so it is taken apart and put together."""
    return replace(chat)


def values(*good):
    return st.one_of(st.sampled_from(good), st.sampled_from([None, 0, 1, "x", [], {}]))


BODIES = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["user", "system", "assistant"]), "content": st.text(max_size=5)},
                optional={"name": st.just("n"), "reasoning_content": st.just("r"), "refusal": st.none()},
            ),
            min_size=1,
            max_size=3,
        )
    },
    optional={
        "model": st.just("m"),
        "max_tokens": values(7),
        "max_completion_tokens": values(7),
        "temperature": values(0.7, 0.0),
        "top_p": values(0.9, 0),
        "top_k": values(40, -1, 0),
        "seed": values(2**62),
        "stop": values("s", ["s"]),
        "n": values(1),
        "stream": st.booleans(),
        "stream_options": values({"include_usage": True}, {"include_usage": None}),
        "user": values("u"),
        "tools": st.just([]),
        "min_p": values(0.5),
        "vendor": values("v"),
        "framework": st.just("vllm"),
    },
)


@given(BODIES, st.sampled_from(DIALECTS))
def test_what_is_sent_is_what_the_long_way_would_send(body, dialect):
    try:
        chat = parse_chat(body)
    except GatewayError:
        return
    assert orjson.loads(dialect.outgoing(chat).body) == orjson.loads(dialect.outgoing(long_way(chat)).body)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.framework)
def test_a_plain_chat_is_neither_copied_nor_looked_through(dialect, monkeypatch):
    chat = read_chat(orjson.dumps(HELLO))
    assert chat.plain
    monkeypatch.setattr(OpenAILike, "_generate", None)
    outgoing = dialect.outgoing(chat)
    assert (outgoing.method, outgoing.path) == ("POST", "/v1/chat/completions")
    assert orjson.loads(outgoing.body) == HELLO


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.framework)
def test_no_plain_field_is_one_that_a_server_is_not_given(dialect):
    assert not set(PlainChat.__struct_fields__) & (set(REFUSED) | set(dialect.quirks.refused))


def test_a_server_with_an_adjustment_of_its_own_gets_every_chat_adjusted():
    def adjust(body, request):
        body["adjusted"] = True

    dialect = OpenAILike(framework="x", quirks=Quirks(adjust=adjust), probe_path="/")
    assert orjson.loads(dialect.outgoing(parse_chat(HELLO)).body)["adjusted"]


def test_a_changed_model_is_the_one_that_is_sent():
    chat = replace(parse_chat({"messages": HELLO["messages"]}), model="chosen")
    assert orjson.loads(DIALECTS[0].outgoing(chat).body)["model"] == "chosen"


@pytest.mark.parametrize("raw", [
    b'{"model":"good","messages":[{"role":"user","content":"hi"}],"model":"m"}',
    b'{"messages":[{"role":"user","content":"no","content":"hi"}],"model":"m"}',
    b'{"messages":[{"role":"user","content":"no"}],"model":"m","messages" : [{"role":"user","content":"hi"}]}',
])  # fmt: skip
def test_of_a_key_that_comes_twice_the_server_sees_the_one_that_was_checked(raw):
    chat = read_chat(raw)
    assert (chat.model, chat.messages[0].text) == ("m", "hi")
    sent = DIALECTS[0].outgoing(chat).body
    assert [sent.count(key) for key in (b'"model"', b'"messages"', b'"content"')] == [1, 1, 1]
    assert orjson.loads(sent) == HELLO


# Answers


def answer(**fields):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "hi"},
        "logprobs": None,
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    return {"id": "c-1", "object": "chat.completion", "created": 5, "model": "m", "choices": [choice], "usage": usage,
            **fields}  # fmt: skip


def asked(parse=parse_chat, **fields):
    prompt = {"prompt": "?"} if parse is parse_completion else {"messages": HELLO["messages"]}
    return Asked("vllm", parse({"model": "m", **prompt, **fields}))


def relayed(asked, body):
    reader = answer_body(asked, {}, relayable=True)
    reader.feed(body)
    return reader.close()


def test_an_answer_without_a_fault_goes_out_in_the_bytes_it_came_in():
    body = orjson.dumps(answer(), option=orjson.OPT_INDENT_2) + b"\n"
    assert relayed(asked(), body) == (Raw(body), Done(Usage(3, 4)))


def test_what_vllm_writes_into_every_message_although_it_says_nothing_is_left_out():
    came = answer()
    came["choices"][0]["message"] |= {"reasoning": None, "tool_calls": []}
    [raw, _] = relayed(asked(), orjson.dumps(came))
    assert raw.data == orjson.dumps(answer())


ODD = st.sampled_from([None, 0, 1, -1, "", "x", [], {}, [1], {"a": 1}, True, 1.5])
MESSAGE = st.fixed_dictionaries(
    {"role": st.just("assistant")},
    optional={
        "content": st.one_of(st.text(max_size=3), ODD),
        "reasoning": st.one_of(st.just("because"), ODD),
        "reasoning_content": ODD,
        "tool_calls": st.one_of(st.just([{"id": "call_1", "function": {"name": "f"}}]), ODD),
        "function_call": ODD,
        "refusal": ODD,
    },
)
CHOICE = st.fixed_dictionaries(
    {"message": st.one_of(MESSAGE, MESSAGE, ODD)},
    optional={
        "index": st.one_of(st.just(0), st.just(0), ODD),
        "logprobs": st.one_of(st.none(), st.none(), ODD),
        "finish_reason": st.one_of(st.sampled_from(["stop", "length", "tool_calls", "abort", "eos"]), ODD),
        "text": st.text(max_size=3),
    },
)
USAGE = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": st.one_of(st.just(3), st.just(3), ODD),
        "completion_tokens": st.one_of(st.just(4), st.just(4), ODD),
        "total_tokens": st.one_of(st.just(7), st.just(7), ODD),
        "reasoning_tokens": ODD,
        "prompt_tokens_details": st.one_of(st.just({"cached_tokens": 2}), ODD),
    },
)
ANSWERS = st.fixed_dictionaries(
    {"choices": st.one_of(*[st.lists(CHOICE, min_size=1, max_size=1)] * 3, st.lists(CHOICE, max_size=2), ODD)},
    optional={
        "model": st.one_of(st.just("m"), st.just("m"), ODD),
        "usage": st.one_of(USAGE, ODD),
        "metadata": st.sampled_from([None, {"a": 1}]),
        "error": st.sampled_from([None, "no"]),
        "object": st.sampled_from(["error", "chat.completion", "chat.completion"]),
    },
)


@settings(max_examples=1000)
@given(ANSWERS, st.sampled_from([asked(), asked(parse_completion), asked(n=2), asked(parallel_tool_calls=False)]))
def test_untouched_means_that_repair_would_change_nothing(came, asked):
    whole = copy.deepcopy(came)
    drop_empty(came)
    if untouched(asked, came):
        assert repair_answer(asked, whole) == came


@given(ANSWERS)
def test_dropping_what_is_empty_changes_nothing_that_repair_would_not(came):
    def repaired(answer):
        try:
            return repair_answer(asked(), answer)
        except (GatewayError, TypeError, ValueError, LookupError, AttributeError) as error:
            return type(error)

    emptied = copy.deepcopy(came)
    drop_empty(emptied)
    assert repaired(emptied) == repaired(came)


PLAIN = [
    exchange
    for server, case in cases("vllm", paths=["/v1/chat/completions"])
    if (exchange := read(server, case)).status == 200 and not exchange.streamed
    and plain_chat(orjson.loads(exchange.asked)) is not None
]  # fmt: skip


@pytest.mark.parametrize("exchange", PLAIN, ids=lambda exchange: exchange.case)
def test_a_real_server_s_answers_need_no_repair(exchange):
    came = orjson.loads(exchange.body)
    drop_empty(came)
    assert untouched(Asked("vllm", parse_chat(orjson.loads(exchange.asked))), came)


def test_there_are_such_recordings():
    assert PLAIN

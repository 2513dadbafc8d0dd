"""The official client, ILLM, and a strict vLLM or SGLang behind it: over real sockets, on both loops."""

import json
from functools import partial

import anyio.lowlevel
import pytest

from backends.remote.openai_gateway import (
    HI,
    LEFT_BEHIND,
    NAMED,
    OTHER,
    SCHEMA,
    TEXT,
    TOOL,
    chat,
    choices,
    gateway,
    openai,
    streamed,
)
from backends.remote.openai_server import Says

pytestmark = [pytest.mark.anyio, LEFT_BEHIND]

JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
COUNTED = {"stream": True, "stream_options": {"include_usage": True}}


async def test_chat(client):
    answer = await chat(client, temperature=0, stop="re", user="me", extra_body={"framework": None})
    assert answer.choices[0].message.content == " Hello the"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.model, answer.object) == ("m1", "chat.completion")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 2
    assert (await chat(client, max_completion_tokens=1)).choices[0].finish_reason == "length"


async def test_a_chat_streams(client):
    chunks = await streamed(client)
    assert "".join(choice.delta.content or "" for choice in choices(chunks)) == TEXT
    assert [choice.delta.role for choice in choices(chunks) if choice.delta.role] == ["assistant"]
    assert [choice.finish_reason for choice in choices(chunks) if choice.finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.model for chunk in chunks} == {"m1"}


@pytest.mark.parametrize("tools", [[], [TOOL]])
async def test_usage_comes_once_and_only_if_asked_for(client, tools):
    options = {"tools": tools, "tool_choice": "none"} if tools else {}
    assert not any(chunk.usage for chunk in await streamed(client, **options))
    *chunks, last = await streamed(client, **options, stream_options={"include_usage": True})
    assert not any(chunk.usage for chunk in chunks)
    assert (last.choices, last.usage.completion_tokens) == ([], 4)
    assert last.usage.total_tokens == last.usage.prompt_tokens + 4


async def test_the_log_counts_a_stream_only_if_the_server_does(client, server, caplog):
    caplog.set_level("INFO", logger="illm.access")
    for server.counts, known in ((False, {}), (True, {"prompt_tokens": 2, "completion_tokens": 4})):
        caplog.clear()
        assert not any(chunk.usage for chunk in await streamed(client))
        while not (lines := [record.illm for record in caplog.records if record.name == "illm.access"]):
            await anyio.lowlevel.checkpoint()  # it is written when the last byte has gone
        assert {name: value for name, value in lines[0].items() if name.endswith("_tokens")} == known


async def test_nulls_say_nothing(client, server):
    nulls = dict.fromkeys(("n", "logprobs", "stream", "frequency_penalty", "tools", "seed", "parallel_tool_calls"))
    assert (await chat(client, **nulls, extra_body={"top_k": None})).choices[0].message.content == TEXT
    assert set(server.body) == {"model", "messages"}


async def test_tools_are_called(client, server):
    server.says = Says(calls=[("f", ('{"a"', ":1}")), ("g", ())])
    choice = (await chat(client, tools=[TOOL, OTHER])).choices[0]
    assert [(call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [
        ("f", '{"a":1}'),
        ("g", "{}"),
    ]
    assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")
    named = (await chat(client, tools=[TOOL, OTHER], tool_choice=NAMED)).choices[0]
    assert (named.finish_reason, len(named.message.tool_calls)) == ("stop", 1)
    single = (await chat(client, tools=[TOOL, OTHER], parallel_tool_calls=False)).choices[0]
    assert len(single.message.tool_calls) == 1


async def test_calls_stream_under_one_index_and_one_id(client, server):
    server.says = Says(calls=[("f", ('{"a"', ":1}")), ("g", ("{}",))])
    chunks = await streamed(client, tools=[TOOL, OTHER], stream_options={"include_usage": True})
    calls = [call for choice in choices(chunks) for call in choice.delta.tool_calls or ()]
    assert [call.index for call in calls] == sorted(call.index for call in calls)
    for index, (name, arguments) in enumerate([("f", '{"a":1}'), ("g", "{}")]):
        own = [call for call in calls if call.index == index]
        assert [bool(call.id) for call in own] == [True] + [False] * (len(own) - 1)
        assert [call.type for call in own if call.type] == ["function"]
        assert [call.function.name for call in own if call.function.name] == [name]
        assert "".join(call.function.arguments or "" for call in own) == arguments
    assert len({call.id for call in calls if call.id}) == 2
    assert [choice.finish_reason for choice in choices(chunks) if choice.finish_reason] == ["tool_calls"]


async def test_the_clients_helper_folds_calls_together(client, server):
    server.says = Says(calls=[("f", ('{"a"', ":1}")), ("g", ("{}",))])
    async with client.chat.completions.stream(model="m1", messages=HI, tools=[TOOL, OTHER]) as stream:
        await stream.until_done()
        [choice] = (await stream.get_final_completion()).choices
    assert [call.function.arguments for call in choice.message.tool_calls] == ['{"a":1}', "{}"]
    assert choice.finish_reason == "tool_calls"


async def test_what_was_called_goes_back(client, server):
    server.says = Says(calls=[("f", ("{}",))])
    [call] = (await chat(client, tools=[TOOL])).choices[0].message.tool_calls
    server.says = Says()
    turns = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "4"}]},
    ]
    assert (await chat(client, messages=turns, tools=[TOOL])).choices[0].message.content == TEXT
    _, asked, told = server.body["messages"]
    assert asked["tool_calls"][0]["id"] == told["tool_call_id"]
    assert told["content"] == "4"


@pytest.mark.parametrize("tools", [[], [TOOL]])
async def test_reasoning_has_one_name(client, server, tools):
    server.says = Says(reasoning=("Hm", "..."), calls=[("f", ("{}",))])
    options = {"tools": tools} if tools else {}
    answer = await chat(client, **options)
    message = answer.choices[0].message
    assert message.reasoning_content == "Hm..."
    assert not hasattr(message, "reasoning")
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2
    *chunks, last = await streamed(client, **options, stream_options={"include_usage": True})
    deltas = [choice.delta for choice in choices(chunks)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Hm..."
    assert not any(hasattr(delta, "reasoning") for delta in deltas)
    assert "".join(delta.content or "" for delta in deltas) == ("" if tools else TEXT)
    assert last.usage.completion_tokens_details.reasoning_tokens == 2


async def test_reasoning_of_earlier_turns_goes_back(client, server):
    turns = [*HI, {"role": "assistant", "content": "4", "reasoning_content": "Hm"}, *HI]
    await chat(client, messages=turns)
    assert server.body["messages"][1]["reasoning_content"] == "Hm"


async def test_choices(client, server):
    answer = await chat(client, n=3, temperature=0)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(at, TEXT) for at in range(3)]
    for temperature in (0, 1):
        chunks = await streamed(client, n=3, temperature=temperature, stream_options={"include_usage": True})
        texts, seen = ["", "", ""], []
        for choice in choices(chunks):
            texts[choice.index] += choice.delta.content or ""
            seen += [] if choice.index in seen else [choice.index]
        assert (texts, seen) == ([TEXT] * 3, [0, 1, 2])
        assert chunks[-1].usage.completion_tokens == 12
        assert len({chunk.id for chunk in chunks}) == 1


async def test_logprobs(client):
    for told in (
        (await chat(client, logprobs=True, top_logprobs=2)).choices[0].logprobs.content,
        [
            one
            for choice in choices(await streamed(client, logprobs=True, top_logprobs=2))
            for one in (choice.logprobs.content if choice.logprobs else ())
        ],
    ):
        assert [one.token for one in told] == [" Hello", " the", "re", "!"]
        assert [other.token for other in told[0].top_logprobs] == [" Hello", " other1"]
        assert told[0].bytes == list(b" Hello")


async def test_completions(client):
    create = partial(client.completions.create, model="m1")
    answer = await create(prompt=["a", "b"], n=2, echo=True, max_tokens=1, temperature=0)
    assert [choice.text for choice in answer.choices] == ["a Hello", "a Hello", "b Hello", "b Hello"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    told = (await create(prompt="a", logprobs=1)).choices[0].logprobs
    assert told.text_offset == [0, 6, 10, 12]
    chunks = [chunk async for chunk in await create(prompt=[[1, 2]], logprobs=1, **COUNTED)]
    assert "".join(choice.text for choice in choices(chunks)) == TEXT
    assert [at for choice in choices(chunks) if choice.logprobs for at in choice.logprobs.text_offset] == [0, 6, 10, 12]
    assert chunks[-1].usage.completion_tokens == 4


async def test_a_schema_is_kept_to(client, server):
    answer = await chat(client, response_format=JSON_SCHEMA)
    assert json.loads(answer.choices[0].message.content) == {"a": 1}
    assert server.body["response_format"] == JSON_SCHEMA


async def test_its_own_words_go_through(client, server, kind):
    own = {
        "vllm": {"structured_outputs": {"choice": ["red", "blue"]}, "chat_template_kwargs": {"x": 1}, "min_p": 0.1},
        "sglang": {"regex": "red", "chat_template_kwargs": {"x": 1}, "top_k": 0},
    }[kind]
    answer = await chat(client, extra_body=own)
    assert answer.choices[0].message.content == "red"
    sent = {**own, "top_k": -1} if "top_k" in own else own
    assert {name: server.body[name] for name in sent} == sent


@pytest.mark.parametrize("field", ["guided_json", "guided_regex", "guided_choice", "functions"])
async def test_what_it_would_ignore_is_refused_here(client, server, field):
    with pytest.raises(openai.BadRequestError) as caught:
        await chat(client, extra_body={field: {"type": "object"}})
    assert caught.value.param == field
    assert server.requests == []


async def test_its_refusals_become_openais(client, server, kind):
    too_long = [{"role": "user", "content": "a " * 300}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await chat(client, messages=too_long, stream=stream)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    if kind == "vllm":
        with pytest.raises(openai.NotFoundError) as caught:
            await chat(client, model="nope", extra_body={"framework": "vllm"})
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    server.busy = True
    with pytest.raises(openai.RateLimitError) as caught:
        await chat(client)
    assert caught.value.response.headers["retry-after"]


async def test_its_key_is_the_gateways_affair(client, server, kind):
    server.key = "sesame"
    with pytest.raises(openai.InternalServerError) as caught:
        await chat(client)
    assert (caught.value.status_code, "sesame" in caught.value.message) == (502, False)
    async with gateway(server, **{f"{kind}_api_key": "sesame"}) as knowing:
        assert (await chat(knowing)).choices


@pytest.mark.parametrize("says", [Says(error_after=2), Says(cut_after=2)])
async def test_a_stream_that_breaks_off_ends_as_an_error(client, server, says):
    server.says = says
    with pytest.raises(openai.APIError):
        await streamed(client)
    server.says = Says()
    assert (await chat(client)).choices

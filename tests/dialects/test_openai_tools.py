"""Tools, formats and log-probabilities in requests: typed for the backends that need them so, and named when wrong."""

import pytest

from illm.core.requests import Message, ResponseFormat, Sampling, Text, Tool, ToolCall, ToolChoice
from illm.dialects.openai import parse_chat, parse_completion, unsupported
from illm.errors import GatewayError, Kind

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "clock", "strict": True, "parameters": None}}
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def chat(**fields):
    return parse_chat({**HELLO, **fields})


def test_tools_become_plain_values():
    request = chat(tools=[WEATHER, CLOCK], parallel_tool_calls=False)
    assert request.tools == (Tool("weather", "of a city", SCHEMA), Tool("clock", strict=True))
    assert (request.tool_choice, request.parallel_tool_calls) == (None, False)


ONLY_CLOCK = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]},
}


@pytest.mark.parametrize(
    ("choice", "expected", "left"),
    [
        ("none", ToolChoice("none"), 2),
        ("required", ToolChoice("required"), 2),
        ({"type": "function", "function": {"name": "clock"}}, ToolChoice("named", "clock"), 2),
        (ONLY_CLOCK, ToolChoice("required"), 1),
    ],
)
def test_the_choice_of_a_tool(choice, expected, left):
    request = chat(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert (request.tool_choice, len(request.tools)) == (expected, left)


def test_a_conversation_with_tools():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{not json"}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "assistant", "content": "", "function_call": {"name": "clock", "arguments": "{}"}},
        {"role": "function", "name": "clock", "content": "noon"},
    ]
    assert parse_chat({"messages": messages}).messages == (
        Message("assistant", (), tool_calls=(ToolCall("weather", "{not json", "c1"),), reasoning="hm"),
        Message("tool", (Text("sunny"),), tool_call_id="c1"),
        Message("assistant", (Text(""),), tool_calls=(ToolCall("clock", "{}"),)),
        Message("function", (Text("noon"),), "clock"),
    )


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        ({"type": "text"}, ResponseFormat("text")),
        ({"type": "json_object"}, ResponseFormat("json_object")),
        ({"type": "structural_tag", "format": {}}, ResponseFormat("structural_tag")),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
            ResponseFormat("json_schema", SCHEMA, "x", True),
        ),
    ],
)
def test_the_format_of_the_answer(wire, expected):
    assert chat(response_format=wire).response_format == expected


def test_the_rest_of_the_sampling():
    fields = {"min_p": 0.1, "presence_penalty": -2, "frequency_penalty": 0.5, "logit_bias": {"5": -100}}
    assert chat(**fields).sampling == Sampling(**fields)
    assert chat(logit_bias={}).sampling == Sampling()


def test_log_probabilities_have_two_spellings():
    assert chat(logprobs=True, top_logprobs=3).sampling.logprobs == 3
    assert chat(logprobs=True).sampling.logprobs == 0
    assert chat(top_logprobs=3).sampling.logprobs is None
    assert parse_completion({"prompt": "x", "logprobs": 0}).sampling.logprobs == 0
    assert parse_completion({"prompt": "x", "logprobs": False}).sampling.logprobs is None


def test_effort_and_suffix():
    assert chat(reasoning_effort="low").reasoning_effort == "low"
    assert parse_completion({"prompt": "x", "suffix": "y"}).suffix == "y"
    assert parse_completion({"prompt": "x", "suffix": ""}).suffix is None


@pytest.mark.parametrize(
    ("fields", "param", "kind"),
    [
        ({"tools": {}}, "tools", Kind.INVALID_REQUEST),
        ({"tools": [{"type": "function"}]}, "tools[0].function", Kind.INVALID_REQUEST),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", Kind.INVALID_REQUEST),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", Kind.UNSUPPORTED_PARAMETER),
        ({"tools": [WEATHER], "tool_choice": "maybe"}, "tool_choice", Kind.INVALID_REQUEST),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom"}}, "tool_choice.type", Kind.UNSUPPORTED_PARAMETER),
        (
            {"tool_choice": {"type": "function", "function": {"name": "gone"}}},
            "tool_choice.function.name",
            Kind.INVALID_REQUEST,
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", Kind.INVALID_REQUEST),
        ({"response_format": {}}, "response_format.type", Kind.INVALID_REQUEST),
        ({"presence_penalty": 2.5}, "presence_penalty", Kind.INVALID_REQUEST),
        ({"logit_bias": {"a": 1}}, "logit_bias", Kind.INVALID_REQUEST),
        ({"logit_bias": {"5": 101}}, "logit_bias[...]", Kind.INVALID_REQUEST),
        ({"min_p": 2}, "min_p", Kind.INVALID_REQUEST),
        ({"priority": 0.5}, "priority", Kind.INVALID_REQUEST),
        ({"priority": 2**31}, "priority", Kind.INVALID_REQUEST),
        ({"logprobs": 1}, "logprobs", Kind.INVALID_REQUEST),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", Kind.INVALID_REQUEST),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].name", Kind.INVALID_REQUEST),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]},
            "messages[0].tool_calls[0].function.arguments",
            Kind.INVALID_REQUEST,
        ),
    ],
)
def test_a_wrong_constraint_is_named(fields, param, kind):
    with pytest.raises(GatewayError) as caught:
        chat(**fields)
    assert (caught.value.param, caught.value.kind) == (param, kind)


def test_a_backend_that_speaks_the_dialect_gets_everything():
    body = {**HELLO, "frobnicate": 1, "stream_options": {"x": 1}, "tools": [WEATHER]}
    assert unsupported(body, frozenset({"*"})) is None

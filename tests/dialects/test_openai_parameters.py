"""Nothing is dropped silently: the table of fields, row by row."""

import pytest

from illm.dialects.openai import CHAT_FIELDS, COMPLETION_FIELDS, EMBEDDING_FIELDS, unsupported
from illm.dialects.openai.parameters import BOOKKEEPING, EVERY_FIELD, OPTIONAL
from illm.errors import Kind

HARMLESS = [
    *[{name: value} for name in sorted(BOOKKEEPING) for value in ("x", True, {"a": 1})],
    {"parallel_tool_calls": True},
    {"parallel_tool_calls": False},
    {"stream_options": {"include_obfuscation": False, "include_usage": True}},
    {"stream_options": {"continuous_usage_stats": False}},
    {"logprobs": False},
    {"top_logprobs": 0},
    {"n": 1},
    {"presence_penalty": 0},
    {"frequency_penalty": 0.0},
    {"logit_bias": {}},
    {"tools": []},
    {"functions": []},
    {"tool_choice": "none"},
    {"tool_choice": "auto"},
    {"function_call": "auto"},
    {"response_format": {"type": "text"}},
    {"modalities": ["text"]},
    {"reasoning_effort": "none"},
    {"echo": False},
    {"suffix": ""},
    {"best_of": 1},
    {"best_of": 3, "n": 3},
    {"best_of": 1, "n": None},
    {"min_p": 0},
    {"priority": 0},
    {"typical_p": 1.0},
    {"tools": None, "audio": None, "nonsense": None},
    dict.fromkeys(OPTIONAL),
]


@pytest.mark.parametrize("body", HARMLESS, ids=repr)
def test_what_asks_for_nothing_is_accepted(body):
    assert unsupported(body, frozenset()) is None


MEANT = [
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"functions": [{}]}, "functions"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 0}, "logprobs"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"presence_penalty": False}, "presence_penalty"),
    ({"frequency_penalty": -2}, "frequency_penalty"),
    ({"suffix": "end"}, "suffix"),
    ({"best_of": 3, "n": 2}, "best_of"),
    ({"best_of": 2}, "best_of"),
    ({"echo": True}, "echo"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"min_p": 0.1}, "min_p"),
    ({"priority": -1}, "priority"),
    ({"typical_p": 0.9}, "typical_p"),
    ({"parallel_tool_calls": False, "tools": [{}]}, "parallel_tool_calls"),
    ({"temprature": 1}, "temprature"),
    ({"guided_json": {}}, "guided_json"),
    ({"stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
]


@pytest.mark.parametrize(("body", "param"), MEANT, ids=repr)
def test_what_changes_the_answer_is_named(body, param):
    error = unsupported(body, frozenset())
    assert error is not None
    assert (error.kind, error.param) == (Kind.UNSUPPORTED_PARAMETER, param)
    assert param.rpartition(".")[2] in error.message


@pytest.mark.parametrize(("body", "param"), MEANT, ids=repr)
def test_a_backend_that_lists_it_gets_it(body, param):
    assert unsupported(body, frozenset({param, "tools"})) is None


def test_another_endpoints_fields_are_found_when_asked_for():
    assert unsupported({"prompt": "x", "messages": []}) is None
    assert unsupported({"prompt": "x", "messages": []}, fields=CHAT_FIELDS).param == "prompt"
    assert unsupported({"messages": []}, fields=COMPLETION_FIELDS).param == "messages"
    assert unsupported({"input": "x", "temperature": 1}, fields=EMBEDDING_FIELDS).param == "temperature"


def test_a_field_has_one_meaning():
    assert not EVERY_FIELD & BOOKKEEPING
    assert not EVERY_FIELD & OPTIONAL.keys()
    assert not BOOKKEEPING & OPTIONAL.keys()


def test_an_absurd_name_makes_no_absurd_answer():
    error = unsupported({"x" * 10_000: 1})
    assert len(error.message) < 200
    assert len(error.param) <= 100

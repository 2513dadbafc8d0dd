"""What one request asks of one model: its template's variables, its format, its errors."""

import pytest

from backends.local.families import HERMES, MISTRAL, MISTRAL_NEW, PYTHONIC, TEMPLATES, THINKING
from illm.backends.local.answers import AnswerStyle, detect
from illm.core.events import Delta, Reasoning, ToolDelta
from illm.core.requests import Chat, Message, Sampling, Text, Tool, ToolChoice
from illm.dialects.openai import parse_chat
from illm.errors import GatewayError, Kind

VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "raise_exception", "bos_token"})
GET = Tool("get", "Gets.", {"type": "object", "properties": {"a": {"type": "integer"}}})
SAY = (Message("user", (Text("?"),)),)


def chat(**more) -> Chat:
    return Chat(messages=SAY, sampling=Sampling(), **more)


def style(template=HERMES, variables=VARIABLES, special=None, **options) -> AnswerStyle:
    return AnswerStyle(template, frozenset(variables), special or {}, **options)


def refusal(function, *arguments) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        function(*arguments)
    return caught.value


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_template_tells_the_format(name):
    assert detect(TEMPLATES[name]).name == name


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content }}",
        "<tool_call>\n<function=f>\n<parameter=a>1</parameter></function>",
        "<tool_call>f\n<arg_key>a</arg_key>",
    ],
)
def test_what_looks_alike_is_not_taken_for_it(template):
    assert detect(template) is None


def test_tools_go_to_the_template_in_openai_s_shape():
    bare = Tool("put")
    asked = style().ask(chat(tools=(GET, bare)))
    assert [tool["function"]["name"] for tool in asked.tools] == ["get", "put"]
    assert asked.tools[1] == {
        "type": "function",
        "function": {"name": "put", "description": "", "parameters": {"type": "object", "properties": {}}},
    }


def test_tools_that_must_not_be_called_are_not_shown():
    silent = chat(tools=(GET,), tool_choice=ToolChoice("none"))
    for one in (style(), style("no tools", {"messages"})):
        assert one.ask(silent).tools is None
        assert one.plan(silent, "") is None


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (style("{{ messages }}", {"messages"}), Kind.CAPABILITY),
        (style("{{ tools }}"), Kind.CAPABILITY),
        (style(tool_format="none"), Kind.CAPABILITY),
    ],
    ids=["no tools in the template", "no known format", "switched off"],
)
def test_tools_for_a_model_that_has_none_are_refused(answers, kind):
    error = refusal(answers.ask, chat(tools=(GET,)))
    assert (error.kind, error.param) == (kind, "tools")
    assert not answers.calls


def test_the_operator_knows_better():
    assert style("{{ tools }}", tool_format="llama3").format.name == "llama3"
    assert style(HERMES, tool_format="mistral").format.name == "mistral"


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("named", "get")])
def test_a_choice_among_nothing(choice):
    assert refusal(style().ask, chat(tool_choice=choice)).param == "tool_choice"


def test_names_that_cannot_be_written():
    for template, name in ((PYTHONIC, "get-weather!"), (MISTRAL_NEW, "a b"), (HERMES, "a<s>b")):
        answers = style(template, special={"<s>": 1})
        assert refusal(answers.ask, chat(tools=(GET, Tool(name)))).param == "tools[1].function.name"


def test_variables_of_the_template_are_the_client_s_to_set():
    answers = style(variables={*VARIABLES, "enable_thinking", "style"})

    def given(**variables):
        return answers.ask(parse_chat({"messages": [{"role": "user", "content": "?"}], **variables}))

    assert given(chat_template_kwargs={"style": "terse", "unknown": False}).variables == {"style": "terse"}
    assert given(reasoning_effort="none").variables == {"enable_thinking": False}
    assert given(reasoning_effort="high").variables == {"enable_thinking": True}
    assert given(reasoning_effort="high", chat_template_kwargs={"enable_thinking": False}).variables == {
        "enable_thinking": False
    }
    for name in ("unknown", "messages", "tools", "bos_token", "tokenize", "raise_exception", "chat_template"):
        with pytest.raises(GatewayError) as caught:
            given(chat_template_kwargs={name: "x"})
        assert caught.value.param == f"chat_template_kwargs.{name}"
    with pytest.raises(GatewayError) as caught:
        given(chat_template_kwargs=["x"])
    assert caught.value.param == "chat_template_kwargs"


def test_effort_where_nobody_looks_at_it():
    assert style().ask(chat(reasoning_effort="none")).variables is None
    error = refusal(style().ask, chat(reasoning_effort="low"))
    assert (error.kind, error.param) == (Kind.UNSUPPORTED_PARAMETER, "reasoning_effort")
    graded = style(variables={*VARIABLES, "reasoning_effort"})
    assert graded.ask(chat(reasoning_effort="low")).variables == {"reasoning_effort": "low"}


def test_a_plain_chat_needs_no_reading():
    assert style().plan(chat(), "<|im_start|>assistant\n") is None
    assert style(THINKING, reasoning="off").plan(chat(), "<think>\n") is None


@pytest.mark.parametrize(
    ("tail", "text", "expected"),
    [
        ("assistant\n<think>\n", "a</think>b", [Reasoning(0, "a"), Delta(0, "b")]),
        ("assistant\n", "<think>a</think>b", [Reasoning(0, "a"), Delta(0, "b")]),
        ("assistant\n", "b", [Delta(0, "b")]),
        ("<think>\n\n</think>\n\n", "a</think>b", None),
    ],
)
def test_the_prompt_tells_whether_reasoning_is_open(tail, text, expected):
    plan = style(THINKING).plan(chat(), tail)
    if expected is None:
        assert plan is None
    else:
        reader = plan.reader(0)
        assert [*reader.feed(text), *reader.close()] == expected


def test_reasoning_may_be_switched_on():
    assert style(reasoning="on").plan(chat(), "<think>").thinks.opened


def test_special_tokens_are_seen_by_the_parser_and_by_nobody_else():
    answers = style(MISTRAL, special={"<s>": 1, "[TOOL_CALLS]": 7, "[ARGS]": 8})
    plan = answers.plan(chat(tools=(GET,)), "")
    assert plan.keep == {7, 8}
    reader = plan.reader(2)
    events = [*reader.feed("Hm [TOOL_CA"), *reader.feed("LLS]nonsense [ARGS] and"), *reader.close()]
    assert "".join(event.text for event in events) == "Hm nonsense  and"
    assert {event.index for event in events} == {2}


def test_events_of_calls():
    plan = style(MISTRAL).plan(chat(tools=(GET,)), "")
    reader = plan.reader(1)
    events = reader.feed('[TOOL_CALLS][{"name": "get", "arguments": {"a": 1}}, {"name": "get", "arguments": {}}]')
    first, second = events[0], events[2]
    assert events == [
        ToolDelta(1, 0, id=first.id, name="get"),
        ToolDelta(1, 0, '{"a": 1}'),
        ToolDelta(1, 1, id=second.id, name="get"),
        ToolDelta(1, 1, "{}"),
    ]
    assert first.id != second.id
    assert len(first.id) == len(second.id) == 9
    assert reader.close() == []
    assert (reader.reason("stop"), reader.reason("length")) == ("tool_calls", "length")


@pytest.mark.parametrize(
    ("request_", "ending"),
    [
        (chat(tools=(GET,), parallel_tool_calls=False), "tool_calls"),
        (chat(tools=(GET,), tool_choice=ToolChoice("named", "get")), "stop"),
    ],
)
def test_one_call_is_enough_where_one_was_asked_for(request_, ending):
    reader = style().plan(request_, "").reader(0)
    one = '<tool_call>{"name": "get", "arguments": {}}'
    assert len(reader.feed(one[:-1])) == 2
    assert not reader.enough
    assert reader.feed(f"}}</tool_call>{one} and so on") == []
    assert reader.enough
    assert reader.close() == []
    assert reader.reason("stop") == ending


def test_without_calls_the_reason_is_the_engine_s():
    reader = style().plan(chat(tools=(GET,)), "").reader(0)
    assert reader.feed("Hello") == [Delta(0, "Hello")]
    assert reader.reason("stop") == "stop"

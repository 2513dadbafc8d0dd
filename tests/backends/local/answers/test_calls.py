"""Every format's parser: whatever the cuts, the same calls and the same text, and nothing lost."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illm.backends.local.answers import FORMATS
from illm.backends.local.answers.pieces import Arguments, Called, Ended, Said

from .reading import NAMES, call, cut, read, said

QUOTED = r'{"q": "a \"b\" } </tool_call> [TOOL_CALLS] é 🦊 \u00e9 \\", "n": {"x": [1, -2.5e3, {}]}}'

CASES = {
    "hermes: one call": (
        "hermes",
        '<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>',
        call("get", '{"a": 1}'),
    ),
    "hermes: text, then calls, then text": (
        "hermes",
        'Hm.\n\n<tool_call>{"name": "get", "arguments": {}}</tool_call>\n<tool_call>{"arguments": {}, "name": "f"} x',
        [Said("Hm."), *call("get", "{}"), *call("f", "{}"), Said(" x")],
    ),
    "hermes: quotes, braces and marks inside strings": (
        "hermes",
        f'<tool_call>{{"name": "f", "arguments": {QUOTED}}}</tool_call>',
        call("f", QUOTED),
    ),
    "hermes: other words for the same, and more keys": (
        "hermes",
        '<tool_call>{"id": 7, "type": "function", "name": "f", "parameters": {"a": null}, "x": [true]}</tool_call>',
        call("f", '{"a": null}'),
    ),
    "hermes: arguments as text in text": (
        "hermes",
        r'<tool_call>{"name": "f", "arguments": "{\"a\": \"\\n\"}"}</tool_call>',
        call("f", r'{"a": "\n"}'),
    ),
    "hermes: half a pair of surrogates in text in text": (
        "hermes",
        r'<tool_call>{"name": "f", "arguments": "{\"a\": \"\ud83d\"}"}</tool_call>',
        call("f", r'{"a": "\ud83d"}'),
    ),
    "hermes: no arguments": ("hermes", '<tool_call>{"name": "f"}</tool_call>', call("f", "{}")),
    "hermes: null arguments": ("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', call("f", "{}")),
    "hermes: a line break inside a string": (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "x\ny\tz\x01"}}</tool_call>',
        call("f", r'{"a": "x\ny\tz\u0001"}'),
    ),
    "hermes: no closing tag": ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}}', call("f", '{"a": 1}')),
    "hermes: ends inside the arguments": (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "x',
        call("f", '{"a": "x'),
    ),
    "hermes: ends between arguments and brace": ("hermes", '<tool_call>{"name": "f", "arguments": {}', call("f", "{}")),
    "hermes: a brace too many": (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": 1}}}</tool_call> x',
        [*call("f", '{"a": 1}'), Said("} x")],
    ),
    "hermes: arguments that stop being JSON": (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": oops}}</tool_call> x',
        [*call("f", '{"a": oops}}'), Said(" x")],
    ),
    "hermes: arguments that are no object": (
        "hermes",
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        [Said('<tool_call>{"name": "f", "arguments": [1]}</tool_call>')],
    ),
    "hermes: nobody's tool": (
        "hermes",
        'a\n<tool_call>{"name": "nobody", "arguments": {}}</tool_call> b',
        [Said('a\n<tool_call>{"name": "nobody", "arguments": {}}</tool_call> b')],
    ),
    "hermes: no JSON, then a call": (
        "hermes",
        '<tool_call>oops</tool_call><tool_call>{"name": "f", "arguments": {}}</tool_call>',
        [Said("<tool_call>oops</tool_call>"), *call("f", "{}")],
    ),
    "hermes: a call inside what was none": (
        "hermes",
        '<tool_call>{"name": "x <tool_call>{"name": "f", "arguments": {}}',
        [Said('<tool_call>{"name": "x'), *call("f", "{}")],
    ),
    "hermes: half a mark at the end": ("hermes", "a <tool_c", [Said("a <tool_c")]),
    "hermes: an empty call": ("hermes", "<tool_call></tool_call>", [Said("<tool_call></tool_call>")]),
    "llama3: bare": ("llama3", '{"name": "get", "parameters": {"a": "b"}}', call("get", '{"a": "b"}')),
    "llama3: behind the tag": (
        "llama3",
        'Hm. <|python_tag|>{"name": "get", "parameters": {"a": "b"}}',
        [Said("Hm."), *call("get", '{"a": "b"}')],
    ),
    "llama3: several": (
        "llama3",
        '{"name": "get", "parameters": {}}; {"name": "put", "parameters": {"x": 1}}\n{"name": "f", "arguments": {}}',
        [*call("get", "{}"), *call("put", '{"x": 1}'), *call("f", "{}")],
    ),
    "llama3: text first": (
        "llama3",
        'I will look.\n{"name": "get", "parameters": {}}',
        [Said("I will look."), *call("get", "{}")],
    ),
    "llama3: in the middle of a line it is text": (
        "llama3",
        'Say {"name": "get", "parameters": {}}',
        [Said('Say {"name": "get", "parameters": {}}')],
    ),
    "llama3: JSON that is no call": (
        "llama3",
        ' {"name": "Bob", "parameters": {}}\n[{"a": {}}]',
        [Said(' {"name": "Bob", "parameters": {}}\n[{"a": {}}]')],
    ),
    "llama3: code behind the tag": (
        "llama3",
        "<|python_tag|>print({'name': 'get'})",
        [Said("<|python_tag|>print({'name': 'get'})")],
    ),
    "llama3: a separator and nothing": (
        "llama3",
        '{"name": "f", "parameters": {}}; ',
        [*call("f", "{}"), Said("; ")],
    ),
    "llama3: a separator and no call": (
        "llama3",
        '{"name": "f", "parameters": {}}; {"name": "zzz"}',
        [*call("f", "{}"), Said('; {"name": "zzz"}')],
    ),
    "llama3: spoilt to the end": (
        "llama3",
        '{"name": "f", "parameters": {"a": b}} more',
        call("f", '{"a": b}} more'),
    ),
    "mistral: an array": (
        "mistral",
        'Sure. [TOOL_CALLS] [{"name": "get", "arguments": {"a": "]"}}, {"name": "put", "arguments": {}}] bye',
        [Said("Sure."), *call("get", '{"a": "]"}'), *call("put", "{}"), Said(" bye")],
    ),
    "mistral: a name and its arguments": (
        "mistral",
        '[TOOL_CALLS]get[ARGS]{"a": 1}[TOOL_CALLS]put[CALL_ID]abcdefghi[ARGS]{"b": {"c": "}"}}',
        [*call("get", '{"a": 1}'), *call("put", '{"b": {"c": "}"}}')],
    ),
    "mistral: a name without the mark": ("mistral", '[TOOL_CALLS]get{"a": 1}', call("get", '{"a": 1}')),
    "mistral: one object": ("mistral", '[TOOL_CALLS]{"name": "f", "arguments": {}}', call("f", "{}")),
    "mistral: nobody's tool": (
        "mistral",
        '[TOOL_CALLS]nobody[ARGS]{"a": 1}',
        [Said('[TOOL_CALLS]nobody[ARGS]{"a": 1}')],
    ),
    "mistral: the second is nobody's": (
        "mistral",
        '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "zzz", "arguments": {}}]',
        [*call("f", "{}"), Said(', {"name": "zzz", "arguments": {}}]')],
    ),
    "mistral: no JSON": ("mistral", "[TOOL_CALLS] sorry, no", [Said("[TOOL_CALLS] sorry, no")]),
    "mistral: an array without end": ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}', call("f", "{}")),
    "pythonic: calls": (
        "pythonic",
        """[get(a=1, b="x\\"]"), put(c=[True, None, {'k': 'it\\'s'}],), f()]""",
        [
            *call("get", '{"a": 1, "b": "x\\"]"}'),
            *call("put", '{"c": [true, null, {"k": "it\'s"}]}'),
            *call("f", "{}"),
        ],
    ),
    "pythonic: marks around": (
        "pythonic",
        "Now:\n<|python_start|>[get_weather(city='Köln 🦊', days=-2.5)]<|python_end|>",
        [Said("Now:"), *call("get_weather", '{"city": "Köln 🦊", "days": -2.5}')],
    ),
    "pythonic: escapes": (
        "pythonic",
        r"""[f(a='\x41\u00e9\U0001F98A\n\q"', b=(1, 2))]""",
        call("f", '{"a": "A\\u00e9\\ud83e\\udd8a\\n\\\\q\\"", "b": [1, 2]}'),
    ),
    "pythonic: a list is a list": ("pythonic", "[1, 2]\n[get, put(x)]", [Said("[1, 2]\n[get, put(x)]")]),
    "pythonic: a comparison is no argument": ("pythonic", "[f(a==1)]", [Said("[f(a==1)]")]),
    "pythonic: text behind": ("pythonic", "[f(a=1)] ok", [*call("f", '{"a": 1}'), Said(" ok")]),
    "pythonic: the second is nobody's": (
        "pythonic",
        "[f(a=1), nobody(b=2)]",
        [*call("f", '{"a": 1}'), Said(", nobody(b=2)]")],
    ),
    "pythonic: spoilt": ("pythonic", "[f(a=1, b=what)] ok", call("f", '{"a": 1, "b": what)] ok')),
    "pythonic: positional behind named": ("pythonic", "[f(a=1, 2)]", call("f", '{"a": 1, 2)]')),
    "pythonic: ends in a number": ("pythonic", "[f(a=12", call("f", '{"a": 12')),
    "pythonic: ends in a string": ("pythonic", "[f(a='x", call("f", '{"a": "x')),
    "pythonic: unfinished head": ("pythonic", "[f(a", [Said("[f(a")]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_read_does_not_depend_on_the_cuts(case):
    name, text, expected = case
    assert read(name, text) == expected
    assert read(name, *text) == expected
    for place in range(len(text) + 1):
        assert read(name, text[:place], text[place:]) == expected, f"cut at {place}"


MESS = st.lists(
    st.sampled_from(
        [
            *"{}[]()\"',:;= \n\\aé🦊",
            "<tool_call>", "</tool_call>", "<tool", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|python_start|>",
            '{"name": "f", "arguments": ', '"name"', '{"a": 1}', "f(a=", "[f(", "get", "null", "\\u12", "1.5", "; ",
        ]
    ),
    max_size=24,
).map("".join)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), MESS, st.lists(st.integers(0, 400), max_size=6))
def test_a_mess_is_read_the_same_however_it_is_cut_and_no_letter_is_lost(name, text, places):
    whole = read(name, text)
    assert read(name, *cut(text, places)) == whole
    if not any(isinstance(piece, Called) for piece in whole):
        assert said(whole) == text
    depth = 0
    for piece in whole:
        depth += {Called: 1, Ended: -1}.get(type(piece), 0)
        assert depth in (0, 1)
        assert not isinstance(piece, Arguments) or depth == 1
    assert depth == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
OBJECTS = st.dictionaries(WORDS, JSON, max_size=4)
TEMPLATES = {"mistral": ("", "[ARGS]")}


def written(name: str, template: str, calls: list[tuple[str, dict]]) -> str:
    layout = FORMATS[name].layout(template)

    def arguments(values: dict) -> str:
        if layout.keywords:
            return ", ".join(f"{key}={value!r}" for key, value in values.items())
        return json.dumps(values, ensure_ascii=False)

    each = [layout.before(tool) + arguments(values) + layout.after for tool, values in calls]
    return layout.opening + layout.separator.join(each) + layout.closing


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([(name, template) for name in FORMATS for template in TEMPLATES.get(name, ("",))]),
    st.lists(st.tuples(st.sampled_from(sorted(NAMES)), OBJECTS), min_size=1, max_size=3),
    st.sampled_from(["", "I think so.\n", "Ça va 🦊\n\n"]),
    st.lists(st.integers(0, 10**4), max_size=8),
)
def test_calls_with_any_arguments_come_out_as_they_went_in(which, calls, before, places):
    text = before + written(*which, calls)
    pieces = read(which[0], *cut(text, places))
    assert said(pieces) == before.rstrip()
    found = []
    for piece in pieces:
        if isinstance(piece, Called):
            found.append([piece.name, ""])
        elif isinstance(piece, Arguments):
            found[-1][1] += piece.text
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"code": "print(1) # and more"}}</tool_call>'),
        ("llama3", '{"name": "f", "parameters": {"code": "print(1) # and more"}}'),
        ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"code": "print(1) # and more"}}]'),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"code": "print(1) # and more"}'),
        ("pythonic", '[f(code="print(1) # and more")]'),
    ],
)
def test_arguments_are_handed_on_as_they_come(name, text):
    parser = FORMATS[name].reader(NAMES)
    behind = text.index("print(1)") + len("print(1)")
    early = parser.feed(text[:behind])
    assert early[0] == Called("f")
    assert "".join(piece.text for piece in early[1:]) == '{"code": "print(1)'
    assert parser.feed(" #") == [Arguments(" #")]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_plain_text_is_handed_on_as_it_comes(name):
    parser = FORMATS[name].reader(NAMES)
    assert parser.feed("Hello there.") == [Said("Hello there.")]
    assert parser.feed(" I am") == [Said(" I am")]
    assert parser.feed("\n") == []  # it may be the frame of a call
    assert parser.feed("fine") == [Said("\nfine")]


@pytest.mark.parametrize("name", ["llama3", "pythonic"])
def test_a_bare_call_may_be_kept_to_the_beginning(name):
    bare = {"llama3": '{"name": "f", "parameters": {}}', "pythonic": "[f()]"}[name]
    assert read(name, bare, lines=False) == call("f", "{}")
    assert read(name, f"Hm.\n{bare}", lines=False) == [Said(f"Hm.\n{bare}")]


def test_a_guess_is_not_made_for_ever():
    parser = FORMATS["hermes"].reader(NAMES)
    endless = '<tool_call>{"x": "' + "a" * 70_000
    assert said(parser.feed(endless)) == endless

"""What the grammars allow is what the parsers read: random walks through each, by a model that knows nothing."""

import json
import random

import pytest

from backends.local.families import MARKS, MISTRAL_NEW, TEMPLATES
from illm.backends.local.answers import FORMATS
from illm.backends.local.answers.layout import Marks, Thinks, after_thinking, forced, free, json_rule
from illm.backends.local.answers.pieces import Arguments, Called, Said, Thought
from illm.backends.local.answers.plan import AnswerPlan
from illm.backends.local.answers.thinking import TAGS, ThinkingReader
from illm.core.requests import Tool

from .reading import pieces_of

llguidance = pytest.importorskip("llguidance", reason="the extra `local` is not installed")
pytest.importorskip("transformers")
from llguidance.hf import from_tokenizer  # noqa: E402

pytestmark = pytest.mark.model

PLACES = ["Köln", 'a "b"', "] }"]
TOOLS = (
    Tool("get", None, {
        "type": "object",
        "properties": {
            "place": {"enum": PLACES},
            "days": {"type": "integer", "minimum": 0, "maximum": 12},
            "exact": {"type": "boolean"},
        },
        "required": ["days"],
    }),
    Tool("put", None, {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/point"}},
        "required": ["at"],
        "$defs": {"point": {
            "type": "object",
            "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["x"],
            "additionalProperties": False,
        }},
    }),
    Tool("f"),
)  # fmt: skip


def good(name: str, arguments: dict) -> bool:
    if name == "get":
        return (
            "days" in arguments
            and arguments.keys() <= {"place", "days", "exact"}
            and arguments["days"] in range(13)
            and arguments.get("place", PLACES[0]) in PLACES
            and isinstance(arguments.get("exact", True), bool)
        )
    if name == "put":
        return arguments.keys() == {"at"} and arguments["at"].keys() == {"x"} and arguments["at"]["x"] in range(10)
    return arguments == {}


@pytest.fixture
def walk(byte_tokenizer):
    """Return a function that goes through a grammar at random and returns the text, marks included."""

    def walk(grammar, seed, more=(), limit=1500, prefix=""):
        hf = byte_tokenizer(None, more)
        tokenizer = from_tokenizer(hf, n_vocab=len(hf))
        problem = llguidance.LLMatcher.validate_grammar(grammar, tokenizer)
        assert not problem, problem
        matcher, draw = llguidance.LLMatcher(tokenizer, grammar), random.Random(seed)
        ids = hf.encode(prefix, add_special_tokens=False)
        assert matcher.consume_tokens(ids)
        while not matcher.is_stopped() and len(ids) < limit:
            mask = matcher.compute_bitmask()
            allowed = [token for token in range(len(hf)) if mask[token >> 3] >> (token & 7) & 1]
            ids.append(draw.choice(allowed))
            assert matcher.consume_token(ids[-1]), matcher.get_error()
        assert matcher.is_stopped(), "it came to no end"
        return hf.decode([one for one in ids if one != hf.eos_token_id], skip_special_tokens=False)

    return walk


def marks_of(byte_tokenizer, more):
    hf = byte_tokenizer(None, more)
    return Marks({mark: hf.convert_tokens_to_ids(mark) for mark in more if mark[0] in "[<"})


def calls_in(pieces):
    found = []
    for piece in pieces:
        if isinstance(piece, Called):
            found.append([piece.name, ""])
        elif isinstance(piece, Arguments):
            found[-1][1] += piece.text
    return [(name, json.loads(arguments)) for name, arguments in found]


KINDS = [
    *[(name, TEMPLATES[name], ()) for name in FORMATS],
    ("mistral", MISTRAL_NEW, ()),
    ("mistral", MISTRAL_NEW, MARKS["mistral"]),
    ("hermes", TEMPLATES["hermes"], ("<tool_call>", "</tool_call>")),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{len(kind[1])}-{len(kind[2])}")
@pytest.mark.parametrize("many", [False, True])
def test_a_forced_answer_is_calls_that_follow_their_schemas(byte_tokenizer, walk, kind, many):
    name, template, more = kind
    marks = marks_of(byte_tokenizer, more)
    grammar = forced(FORMATS[name].layout(template), TOOLS, marks, many=many)
    names = frozenset(tool.name for tool in TOOLS)
    for seed in range(8):
        text = walk(grammar, seed, more, limit=10_000)
        pieces = pieces_of(FORMATS[name].reader(names, lines=False), [text])
        calls = calls_in(pieces)
        assert calls
        assert many or len(calls) == 1
        assert all(good(*call) for call in calls), text
        assert not any(isinstance(piece, Said) for piece in pieces), text


FREE = {
    "hermes": 'I <b>see</b>.\n<tool_call>\n{"name": "',
    "mistral": "I see [it]. [TOOL_CALLS][",
    "llama3": "{",
    "pythonic": "[",
}


@pytest.mark.parametrize("name", sorted(FREE))
def test_a_free_answer_may_call_and_then_follows_the_schema(byte_tokenizer, walk, name):
    grammar = free(FORMATS[name].layout(TEMPLATES[name]), TOOLS, Marks({}), many=False)
    for seed in range(4):
        # Told how to begin: by itself a random text would hardly ever come to a call.
        text = walk(grammar, seed, prefix=FREE[name], limit=10_000)
        pieces = pieces_of(FORMATS[name].reader({tool.name for tool in TOOLS}, lines=False), [text])
        calls = calls_in(pieces)
        assert len(calls) >= 1
        assert all(good(*call) for call in calls), text


@pytest.mark.parametrize("name", sorted(FREE))
def test_a_free_answer_may_be_text(byte_tokenizer, walk, name):
    grammar = free(FORMATS[name].layout(TEMPLATES[name]), TOOLS, Marks({}), many=True)
    text = "Just so. { [ <tool"
    hf = byte_tokenizer(None, ())
    matcher = llguidance.LLMatcher(from_tokenizer(hf, n_vocab=len(hf)), grammar)
    assert matcher.consume_tokens(hf.encode(text, add_special_tokens=False))
    assert matcher.is_accepting()


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("more", [(), tuple(TAGS[0])])
def test_reasoning_comes_before_what_is_forced(byte_tokenizer, walk, opened, more):
    marks = marks_of(byte_tokenizer, more)
    thinks = Thinks(TAGS[0], opened)
    layout = FORMATS["hermes"].layout("")
    prefix = ("" if opened else "<think>") + "Hm. {[</thin</think>"
    text = walk(forced(layout, TOOLS, marks, many=False, thinks=thinks), 1, more, prefix=prefix, limit=10_000)
    pieces = pieces_of(ThinkingReader(TAGS[0], opened=opened), [text])
    assert pieces[0] == Thought("Hm. {[</thin")
    plan = AnswerPlan(calls=FORMATS["hermes"].reader, names=frozenset({"get", "put", "f"}), thinks=thinks)
    events = plan.reader(0).feed(text)
    assert {type(event).__name__ for event in events} == {"Reasoning", "ToolDelta"}
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    answer = after_thinking(json_rule("answer", schema | {"additionalProperties": False}), marks, thinks)
    text = walk(answer, 2, more, prefix=prefix)
    assert json.loads(text.removeprefix(prefix)).keys() == {"a"}


def test_arguments_are_always_an_object(walk):
    layout = FORMATS["hermes"].layout("")
    either = {"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": False}]}
    text = walk(forced(layout, (Tool("f", None, either),), Marks({}), many=False), 3)
    assert calls_in(pieces_of(FORMATS["hermes"].reader({"f"}), [text])) == [("f", {})]
    with pytest.raises(ValueError, match="no object"):
        forced(layout, (Tool("f", None, {"type": "string"}),), Marks({}), many=False)


def test_what_python_s_arguments_cannot_say():
    layout = FORMATS["pythonic"].layout("")
    for schema, said in (
        ({"anyOf": [{"type": "object"}]}, "anyOf"),
        ({"type": "object", "properties": {"a b": {}}}, "a b"),
        ({"type": "object", "properties": {}, "required": ["x"]}, "x"),
    ):
        with pytest.raises(ValueError, match=said):
            forced(layout, (Tool("f", None, schema),), Marks({}), many=False)

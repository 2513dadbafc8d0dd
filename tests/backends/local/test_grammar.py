"""Grammars and the reserve that is kept of a limit, driven by a model that chooses any token it may have."""

import json
import os
import random

import pytest

numpy = pytest.importorskip("numpy", reason="the extra `local` is not installed")
pytest.importorskip("llguidance", reason="the extra `local` is not installed")

from backends.local.schemas import conforms, make  # noqa: E402
from illm.backends.local.constraints import compiled  # noqa: E402
from illm.backends.local.grammar import GrammarCompiler  # noqa: E402
from illm.core.requests import Constraint  # noqa: E402

pytestmark = pytest.mark.model

SCHEMAS = int(os.environ.get("ILLM_TEST_SCHEMAS", "60"))
END = 2


@pytest.fixture
def tokenizer(byte_tokenizer):
    return byte_tokenizer()


@pytest.fixture
def grammars(tokenizer):
    return GrammarCompiler(tokenizer, len(tokenizer), frozenset({END}))


def schema_grammar(grammars, schema):
    return compiled(grammars, Constraint("json_schema", schema, "schema"))


def may(way) -> list[int]:
    return numpy.flatnonzero(numpy.unpackbits(numpy.frombuffer(way.mask(), numpy.uint8), bitorder="little")).tolist()


def walk(grammar, limit, chance, *, eos=(END,)):
    """Choose tokens by chance until the text ends or the limit is reached."""
    way, out = grammar.start(eos), []
    while len(out) < limit and not way.finished:
        token = chance.choice(may(way))
        out.append(way.take(token, limit - len(out) - 1))
    return way, out


def text_of(tokenizer, tokens):
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_random_schemas_are_kept_within_random_limits(grammars, tokenizer):
    for seed in range(SCHEMAS):
        chance = random.Random(seed)
        schema = make(chance)
        grammar = schema_grammar(grammars, schema)
        shortest = grammar.start({END}).reserve
        assert shortest is not None, schema
        limit = shortest + chance.choice((0, 1, 5, 30, 120))
        _, tokens = walk(grammar, limit, chance)
        text = text_of(tokenizer, tokens)
        try:
            assert conforms(json.loads(text), schema)
        except Exception as error:
            raise AssertionError(f"{seed}: {schema} within {limit} gave {text!r}") from error


class Clock:
    """A thread's own time: so many seconds from one look to the next, and many more before the third."""

    def __init__(self, seconds: float, pause: float) -> None:
        self.now, self.looks, self._seconds, self._pause = 0.0, 0, seconds, pause

    def __call__(self) -> float:
        self.looks += 1
        self.now += self._pause if self.looks == 3 else self._seconds
        return self.now


def test_a_way_to_the_end_is_found_though_the_thread_is_held_up(grammars, monkeypatch):
    monkeypatch.setattr("illm.backends.local.closing.thread_time", Clock(1e-6, 30.0))
    grammar = schema_grammar(grammars, {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]})
    assert grammar.start({END}).reserve == len('{"a":0}')


def test_a_search_ends_where_every_try_is_slow(grammars, monkeypatch):
    clock = Clock(0.01, 0.01)
    monkeypatch.setattr("illm.backends.local.closing.thread_time", clock)
    assert grammars.lark("start: /[0-9]+x[0-9]{300}yzzy/", "p").start({END}).reserve is None
    assert clock.now < 1.1


def test_a_large_choice_is_closed_though_the_first_was_a_small_one(grammars, tokenizer):
    """The closing that is known from the beginning is the other branch's, so one is looked for within a step."""
    names = [f"k{at}" for at in range(120)]
    large = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
    way = schema_grammar(grammars, {"anyOf": [{"type": "integer"}, large]}).start({END})
    assert way.reserve == 1
    [brace] = tokenizer.encode("{", add_special_tokens=False)
    assert way.take(brace, 5000) == brace
    assert way.reserve is not None


def test_a_beginning_is_searched_longer_than_a_step(grammars, tokenizer):
    """What a step has no time for is known from the beginning, and so kept."""
    grammar = grammars.lark("start: /[0-9]+x[0-9]{300}yzzy/", "p")
    way, out = walk(grammar, grammar.start({END}).reserve + 3, random.Random(5))
    assert way.finished
    assert text_of(tokenizer, out).endswith("yzzy")


def test_what_is_compiled_is_kept_and_no_more_than_so_many(grammars):
    first = grammars.lark('start: "a"', "p")
    assert grammars.lark('start: "a"', "p") is first
    for at in range(200):
        grammars.lark(f'start: "b{at}"', "p")
    assert grammars.lark('start: "a"', "p") is not first


def test_two_ways_through_one_grammar_do_not_meet(grammars, tokenizer):
    grammar = grammars.lark("start: /[ab]{2}c/", "p")
    one, other = grammar.start({END}), grammar.start({END})
    [a] = tokenizer.encode("a", add_special_tokens=False)
    before = may(other)
    one.take(a, 9)
    one.take(a, 8)
    assert may(other) == before != may(one)


def test_the_end_token_is_offered_only_where_the_text_is_whole_and_it_may_be_chosen(grammars, tokenizer):
    grammar = grammars.lark("start: /a[a-z]*/", "p")
    [a] = tokenizer.encode("a", add_special_tokens=False)
    for eos, offered in (({END}, True), (set(), False)):
        way = grammar.start(eos)
        assert END not in may(way)
        way.take(a, 9)
        assert (END in may(way)) is offered
        assert not way.finished


def test_the_model_is_left_alone_while_there_is_room(grammars, tokenizer):
    grammar = schema_grammar(grammars, {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    text = '{"a": "says } and ] and \\" and {"}'
    way = grammar.start({END})
    tokens = tokenizer.encode(text, add_special_tokens=False)
    for at, token in enumerate(tokens):
        assert token in may(way)
        assert way.take(token, len(tokens) - at - 1) == token
    assert way.finished == (not way.cut) is True

"""Greedy output is `generate`'s, token for token, whatever happens around a sequence."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import random

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from illm.backends.local.engine import Engine, SequenceRequest
from illm.backends.local.engine.prefix import LEAST

from .tiny import ARCHITECTURES, generate, make, prompt

pytestmark = pytest.mark.model

NEW = 40
LENGTHS = (1, 5, 31, 32, 40, 70)


def spell(ids):
    return "".join(f"{token} " for token in ids)


class Told:
    """Drives an engine and keeps each sequence's tokens."""

    def __init__(self, engine):
        self.engine = engine
        self.tokens = {}
        self.finish = {}

    def add(self, number, ids, count=NEW, **options):
        self.tokens[number] = []
        self.engine.add(SequenceRequest(id=number, prompt=ids, max_new_tokens=count, temperature=0, **options))

    def step(self):
        for output in self.engine.step():
            assert output.id not in self.finish, "nothing comes after the end"
            self.tokens[output.id] += [int(word) for word in output.text.split()]
            if output.finish is not None:
                self.finish[output.id] = output.finish

    def run(self):
        while self.engine.busy:
            self.step()
        return self.tokens


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request):
    """A model, prompts, and what `generate` answers: computed before an engine takes the model over."""
    model = make(request.param)
    prompts = [prompt(length) for length in LENGTHS]
    expected = [generate(model, ids, NEW) for ids in prompts]
    assert all(len(set(answer)) >= 10 for answer in expected), "a model that repeats itself tests nothing"
    window = ARCHITECTURES[request.param][2]
    assert window is None or window < NEW
    return model, prompts, expected


def test_alone(case):
    model, prompts, expected = case
    told = Told(Engine(model, spell, kv_tokens=256))
    for number, ids in enumerate(prompts):
        told.add(number, ids)
        told.run()
    assert list(told.tokens.values()) == expected
    assert set(told.finish.values()) == {"length"}


@pytest.mark.parametrize("schedule", range(3))
def test_joining_and_leaving_at_random(case, schedule):
    model, prompts, expected = case
    dice = random.Random(schedule)
    engine = Engine(
        model,
        spell,
        kv_tokens=2048,
        max_sequences=dice.choice([3, 5, 16]),
        busy_chunk=dice.choice([1, 3, 7, 48]),
        idle_chunk=dice.choice([5, 33, 512]),
    )
    told = Told(engine)
    kept = {}
    for number in range(14):
        which = dice.randrange(len(prompts))
        told.add(number, prompts[which])
        if dice.random() < 0.3:
            for _ in range(dice.randrange(8)):
                told.step()
            engine.abort(number)
        else:
            kept[number] = which
        for _ in range(dice.randrange(10)):
            told.step()
    told.run()
    assert {number: told.tokens[number] for number in kept} == {n: expected[which] for n, which in kept.items()}
    assert engine.stats.preemptions == 0
    assert engine.stats.kv_used == 0


def test_with_memory_for_hardly_one(case):
    model, prompts, expected = case
    engine = Engine(model, spell, kv_tokens=160, busy_chunk=20)
    told = Told(engine)
    for number, ids in enumerate(prompts):
        told.add(number, ids)
    assert list(told.run().values()) == expected
    assert engine.stats.preemptions > 0
    assert engine.stats.recomputed_tokens > 0
    assert engine.stats.prompt_tokens + engine.stats.prefix_tokens == sum(LENGTHS)
    assert engine.stats.generated_tokens == NEW * len(prompts)
    assert engine.stats.kv_used == 0


def test_neighbours_of_very_different_length(case):
    """Long and short rows are padded together, or are not: neither may show."""
    model, prompts, expected = case
    told = Told(Engine(model, spell, kv_tokens=2048))
    long = prompt(300, seed=1)
    told.add(100, long, 100)
    for number, ids in enumerate(prompts):
        told.add(number, ids)
    told.run()
    assert [told.tokens[number] for number in range(len(prompts))] == expected


def test_past_many_windows(case):
    model, _, _ = case
    model.set_attn_implementation("sdpa")
    ids = prompt(150, seed=2)
    expected = generate(model, ids, 100)
    told = Told(Engine(model, spell, kv_tokens=512, idle_chunk=37))
    told.add(1, ids, 100)
    assert told.run() == {1: expected}


def test_repetition_penalty(case):
    model, prompts, _ = case
    model.set_attn_implementation("sdpa")
    expected = [generate(model, ids, NEW, repetition_penalty=1.3) for ids in prompts[:4]]
    told = Told(Engine(model, spell, kv_tokens=2048))
    for number, ids in enumerate(prompts[:4]):
        told.add(number, ids, repetition_penalty=1.3)
        told.add(100 + number, ids)
    told.run()
    assert [told.tokens[number] for number in range(4)] == expected
    assert [told.tokens[100 + number] for number in range(4)] != expected


def test_a_step_never_pauses_those_who_decode(case):
    model, prompts, _ = case
    told = Told(Engine(model, spell, kv_tokens=2048, busy_chunk=16))
    told.add(1, prompts[0], 60)
    told.step()
    told.add(2, prompt(300, seed=3), 2)
    steps = 0
    while not told.tokens[2]:
        said = len(told.tokens[1])
        told.step()
        assert len(told.tokens[1]) == said + 1
        steps += 1
    assert steps == -(-300 // 16)


@pytest.fixture(scope="module")
def family(case):
    """Prompts that begin alike, some in the middle of a block, and what `generate` answers."""
    model, _, _ = case
    model.set_attn_implementation("sdpa")
    stem = prompt(100, seed=4)
    prompts = [
        stem[:32],
        stem[:64],
        stem[:75],
        stem,
        *(stem[:cut] + prompt(own, seed=5) for cut, own in ((20, 9), (64, 1), (70, 30), (96, 40), (100, 3))),
    ]
    return model, prompts, [generate(model, ids, NEW) for ids in prompts]


@pytest.mark.parametrize(
    ("kv_tokens", "max_sequences", "busy", "idle"), [(4096, 16, 48, 512), (192, 16, 30, 512), (256, 3, 5, 33)]
)
def test_everything_at_random_over_prompts_that_begin_alike(family, kv_tokens, max_sequences, busy, idle):
    """Who joins, leaves, shares, waits, is thrown out and goes first must not show in anybody's answer."""
    model, prompts, expected = family
    dice = random.Random(kv_tokens)
    engine = Engine(model, spell, kv_tokens=kv_tokens, max_sequences=max_sequences, busy_chunk=busy, idle_chunk=idle)
    told = Told(engine)
    kept = {}
    for number in range(30):
        which, new = dice.randrange(len(prompts)), dice.choice([1, 5, NEW])
        options = {"priority": dice.randrange(-1, 2), "reuse": dice.random() < 0.8}
        told.add(number, prompts[which], new, **options)
        if dice.random() < 0.2:
            for _ in range(dice.randrange(8)):
                told.step()
            engine.abort(number)
        else:
            kept[number] = expected[which][:new]
        for _ in range(dice.randrange(6)):
            told.step()
    told.run()
    assert {number: told.tokens[number] for number in kept} == kept
    stats = engine.stats
    assert stats.prefix_tokens > 500
    assert stats.kv_used == 0
    assert (stats.evicted_blocks > 0) == (kv_tokens < 4096)
    assert (stats.preemptions > 0) == (kv_tokens == 192)


def test_a_past_that_was_kept_serves_layers_with_windows_too(family):
    """The beginning is known, far beyond any window, and the rest goes on from it."""
    model, prompts, expected = family
    told = Told(Engine(model, spell, kv_tokens=1024))
    for number, ids in enumerate(prompts):
        told.add(number, ids)
        told.run()
    again = Told(told.engine)
    before = told.engine.stats
    for number, ids in enumerate(prompts):
        again.add(100 + number, ids)
    again.run()
    assert list(told.tokens.values()) == list(again.tokens.values()) == expected
    assert told.engine.stats.prompt_tokens - before.prompt_tokens < len(prompts) * LEAST

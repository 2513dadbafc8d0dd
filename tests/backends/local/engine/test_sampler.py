"""Every draw is exactly what a full sort would give."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import random

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from transformers import TopKLogitsWarper, TopPLogitsWarper

from illm.backends.local.engine.sampler import sample, top
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest

pytestmark = pytest.mark.model


def sequence(seed=0, prompt=(1,), **options):
    request = SequenceRequest(id=0, prompt=prompt, max_new_tokens=1, seed=seed, **options)
    return LiveSequence(request, lambda ids: "")


def plainly(row, luck, temperature=1.0, top_k=0, top_p=1.0):
    """The whole vocabulary sorted, in double precision, and a given random number."""
    weights, ids = (row.double() / temperature).softmax(0).sort(descending=True)
    if top_k:
        weights, ids = weights[:top_k], ids[:top_k]
    weights = weights / weights.sum()
    inside = int((weights.cumsum(0) - weights < top_p).sum())
    weights = weights[:inside] / weights[:inside].sum()
    at = int((weights.cumsum(0) <= luck).sum())
    return int(ids[min(at, inside - 1)])


PARAMETERS = [
    {},
    {"temperature": 0.3},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 300, "temperature": 2.0},
    {"top_k": 10**9},
    {"top_p": 0.9},
    {"top_p": 0.999, "temperature": 2.0},
    {"top_p": 1e-9},
    {"top_k": 40, "top_p": 0.95, "temperature": 0.8},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
@pytest.mark.parametrize(("vocabulary", "spread"), [(20, 1.0), (3000, 2.0), (70001, 3.0), (70001, 0.5)])
def test_the_draw_of_a_full_sort(vocabulary, spread, parameters):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(40, vocabulary, generator=generator) * spread
    rows = [sequence(seed, **parameters) for seed in range(40)]
    for seed, (row, token) in enumerate(zip(logits, sample(logits, rows), strict=True)):
        luck = random.Random(seed).random()
        # The sum over a whole vocabulary is rounded: on a border between two tokens either is right.
        likelier, rarer = (row[plainly(row, luck * slack, **parameters)] for slack in (1 - 1e-6, 1 + 1e-6))
        assert rarer <= row[token] <= likelier


@pytest.mark.parametrize(
    "parameters", [{"top_k": 5}, {"top_p": 0.7}, {"top_k": 8, "top_p": 0.8, "temperature": 1.7}, {}]
)
def test_frequencies_are_those_of_transformers(parameters):
    count = 6000
    row = torch.randn(1, 24, generator=torch.Generator().manual_seed(5)) * 1.5
    scores = row / parameters.get("temperature", 1.0)
    if "top_k" in parameters:
        scores = TopKLogitsWarper(parameters["top_k"])(None, scores)
    if "top_p" in parameters:
        scores = TopPLogitsWarper(parameters["top_p"])(None, scores)
    expected = scores.softmax(1)[0].double() * count
    drawn = sample(row.expand(count, -1), [sequence(seed, **parameters) for seed in range(count)])
    seen = torch.bincount(torch.tensor(drawn), minlength=24).double()
    possible = expected > 0
    assert seen[~possible].sum() == 0
    chi_squared = ((seen - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = int(possible.sum()) - 1
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_its_neighbours(dtype):
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(24, 20000, generator=generator) * 2).to(dtype)
    options = [
        {"temperature": 0.0},
        {"top_p": 0.9},
        {"top_k": 50},
        {"top_k": 3000, "temperature": 5.0},
        {"repetition_penalty": 1.5, "prompt": (1, 2, 3)},
        {"repetition_penalty": 1.5, "temperature": 0.0},
    ]
    chosen = [options[i % len(options)] for i in range(24)]
    alone = [sample(logits[i : i + 1], [sequence(i, **chosen[i])])[0] for i in range(24)]
    logits[3] = float("inf")
    logits[7] = float("nan")
    logits[9] = -float("inf")
    logits[13, 5] = 1e30
    together = sample(logits, [sequence(i, **chosen[i]) for i in range(24)])
    spoiled = {3, 7, 9, 13}
    assert [x for i, x in enumerate(together) if i not in spoiled] == [
        x for i, x in enumerate(alone) if i not in spoiled
    ]
    assert all(0 <= token < 20000 for token in together)


def test_the_logits_are_left_alone():
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    sample(logits, [sequence(), sequence(top_p=0.5), sequence(temperature=0.0), sequence(repetition_penalty=2.0)])
    assert torch.equal(logits, before)


def test_greedy_takes_the_first_of_equals():
    logits = torch.zeros(3, 30000, dtype=torch.bfloat16)
    logits[1, [29999, 12345, 12346]] = 2
    logits[2, 29999] = 1
    assert sample(logits, [sequence(temperature=0.0)] * 3) == [0, 12345, 29999]


def test_a_temperature_next_to_nothing_is_greedy():
    logits = torch.randn(1, 100, generator=torch.Generator().manual_seed(1))
    assert sample(logits, [sequence(temperature=1e-300)]) == [int(logits.argmax())]
    assert sample(logits, [sequence(temperature=2e-6)]) == [int(logits.argmax())]


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 65, 1000, 262144, 262145])
@pytest.mark.parametrize("count", [1, 64, 256])
def test_the_largest_are_the_largest(vocabulary, count):
    count = min(count, vocabulary)
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(count))
    values, ids = top(logits, count)
    expected = logits.topk(count)
    assert torch.equal(values, expected.values)
    assert torch.equal(logits.gather(1, ids), expected.values)


def test_the_penalty_is_transformers_own():
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(2))
    seen = (int(logits.argmax()), int(logits.argmin()), 7, 7)
    expected = RepetitionPenaltyLogitsProcessor(1.9)(torch.tensor([seen]), logits.clone())
    assert sample(logits, [sequence(prompt=seen, temperature=0.0, repetition_penalty=1.9)]) == [int(expected.argmax())]
    for seed in range(50):
        drawn = sample(logits, [sequence(seed, prompt=seen, repetition_penalty=1.9)])
        assert drawn == [plainly(expected[0], random.Random(seed).random())]

"""Every parameter against Transformers' own processors, row by row, all of them mixed in one batch."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import random
from collections import Counter

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from illm.backends.local.engine.adjustments import Adjustments, Tally
from illm.backends.local.engine.sampler import sample
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest

pytestmark = pytest.mark.model

CHOICES = {
    "temperature": (0.4, 0.8, 1.0, 1.0, 1.7),
    "top_k": (0, 0, 0, 1, 3, 40, 700, 9000),
    "top_p": (1.0, 1.0, 0.3, 0.9, 0.999),
    "min_p": (0.0, 0.0, 0.001, 0.1, 0.7),
    "typical_p": (1.0, 1.0, 0.2, 0.95),
    "repetition_penalty": (1.0, 1.0, 0.7, 1.3),
    "presence_penalty": (0.0, 0.0, -1.0, 1.5),
    "frequency_penalty": (0.0, 0.0, -0.5, 0.7),
    "min_tokens": (0, 0, 2, 9),
}
EOS = 5


def drawn_request(pick, vocabulary, seed):
    options = {name: pick.choice(values) for name, values in CHOICES.items()}
    bias = {pick.randrange(vocabulary): pick.uniform(-4, 4) for _ in range(pick.choice((0, 0, 4)))}
    return SequenceRequest(
        id=seed,
        prompt=[pick.randrange(vocabulary) for _ in range(6)],
        max_new_tokens=50,
        seed=seed,
        eos=frozenset({EOS}),
        logit_bias=bias,
        **options,
    )


def begun(request, answer):
    sequence = LiveSequence(request, lambda ids: "")
    sequence.tokens += answer
    return sequence


def processed(row, sequence):
    """Return what Transformers' processors make of a row, in double precision, minus infinity for what is left out."""
    request, tokens = sequence.request, torch.tensor([sequence.tokens])
    row = row.double().clone()
    answer = sequence.tokens[len(request.prompt) :]
    for token, bias in request.logit_bias.items():
        row[token] += bias
    if request.repetition_penalty != 1:
        row = RepetitionPenaltyLogitsProcessor(request.repetition_penalty)(tokens, row.unsqueeze(0))[0]
    for token, count in Counter(answer).items():
        row[token] -= request.presence_penalty + request.frequency_penalty * count
    if len(answer) < request.min_tokens:
        row[EOS] = -torch.inf
    warpers = [
        TemperatureLogitsWarper(request.temperature),
        TopKLogitsWarper(request.top_k) if request.top_k else None,
        TopPLogitsWarper(request.top_p) if request.top_p < 1 else None,
        MinPLogitsWarper(request.min_p) if request.min_p else None,
        TypicalLogitsWarper(request.typical_p) if request.typical_p < 1 else None,
    ]
    scores = row.unsqueeze(0)
    for warper in warpers:
        scores = scores if warper is None else warper(tokens, scores)
    return scores[0]


def places(scores, luck):
    """Return the score of the token that a random number means, in falling order of probability."""
    weights, ids = scores.softmax(0).sort(descending=True)
    at = int((weights.cumsum(0) <= luck).sum())
    return float(scores[ids[min(at, int((weights > 0).sum()) - 1)]])


@pytest.mark.parametrize(("vocabulary", "rows"), [(37, 300), (5000, 120), (262144, 24)])
@pytest.mark.parametrize("spread", [0.3, 2.5])
def test_a_mixed_batch_draws_what_transformers_processors_leave(vocabulary, rows, spread):
    pick = random.Random(vocabulary * spread)
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(rows)) * spread
    sequences = []
    for seed in range(rows):
        answer = [pick.randrange(vocabulary) for _ in range(pick.randrange(5))]
        sequences.append(begun(drawn_request(pick, vocabulary, seed), answer * pick.choice((1, 2))))
    chosen = sample(logits, sequences)
    for row, sequence, token in zip(logits, sequences, chosen, strict=True):
        scores = processed(row, sequence)
        luck = 0.0 if sequence.request.top_k == 1 else random.Random(sequence.request.seed).random()
        likelier, rarer = (places(scores, luck * slack) for slack in (1 - 1e-5, 1 + 1e-5))
        # Penalties are rounded to float32: a token may stand a hair beside its place, but must be one that is left.
        assert torch.isfinite(scores[token]), sequence.request
        assert rarer - 1e-5 <= float(scores[token]) <= likelier + 1e-5, sequence.request


def test_a_sum_that_is_kept_is_the_sum_made_anew():
    """What a tally takes up token by token is what counting everything gives, past the room it began with."""
    pick = random.Random(3)
    request = SequenceRequest(
        id=1,
        prompt=[pick.randrange(400) for _ in range(150)],
        max_new_tokens=1,
        repetition_penalty=1.4,
        presence_penalty=0.5,
        frequency_penalty=0.25,
    )
    growing = Adjustments(request, 400, torch.device("cpu"))
    tokens = list(request.prompt)
    row = torch.randn(400, generator=torch.Generator().manual_seed(1))
    for _ in range(300):
        tokens.append(pick.randrange(400))
        kept, anew = row.clone(), row.clone()
        growing.apply(kept, tokens)
        Adjustments(request, 400, torch.device("cpu")).apply(anew, tokens)
        assert torch.equal(kept, anew)


def test_a_token_is_counted_once(monkeypatch):
    counted = []
    monkeypatch.setattr(Tally, "count", lambda self, token: counted.append(token))
    request = SequenceRequest(id=1, prompt=[1, 2], max_new_tokens=1, frequency_penalty=1.0)
    sequence = begun(request, [])
    for token in range(10, 20):
        sample(torch.zeros(1, 50), [sequence])
        sequence.tokens.append(token)
    assert counted == list(range(10, 19))


def test_presence_and_frequency_look_at_the_answer_alone():
    logits = torch.zeros(2, 50)
    logits[:, 7], logits[:, 8] = 1.0, 0.9
    greedy = {"max_new_tokens": 9, "temperature": 0.0, "prompt": [7, 7, 7]}
    for name in ("presence_penalty", "frequency_penalty"):
        asked = begun(SequenceRequest(id=1, **greedy, **{name: 1.0}), [])
        answered = begun(SequenceRequest(id=2, **greedy, **{name: 1.0}), [7])
        assert sample(logits, [asked, answered]) == [7, 8]


def test_what_is_not_allowed_is_never_chosen_and_changes_no_neighbour():
    logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(9))
    allowed = torch.zeros(3000, dtype=torch.bool)
    allowed[[11, 2999]] = True
    options = [{"temperature": 0.0}, {}, {"typical_p": 0.5}, {"repetition_penalty": 1.2, "top_k": 5}]

    def rows():
        return [
            begun(SequenceRequest(id=at, prompt=[1], max_new_tokens=1, seed=at, **options[at]), []) for at in range(4)
        ]

    free = sample(logits, rows())
    for bound in range(4):
        masks = [allowed if at == bound else None for at in range(4)]
        chosen = sample(logits, rows(), masks)
        assert chosen[bound] in (11, 2999)
        assert [token for at, token in enumerate(chosen) if at != bound] == [
            token for at, token in enumerate(free) if at != bound
        ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_neighbour_s_values_change_a_row(dtype):
    pick = random.Random(8)
    logits = (torch.randn(30, 20000, generator=torch.Generator().manual_seed(8)) * 2).to(dtype)
    requests = [drawn_request(pick, 20000, seed) for seed in range(30)]

    def drawn(logits, members):
        return sample(logits[members], [begun(requests[at], [3, 4, 3]) for at in members])

    quiet = drawn(logits, range(30))
    assert quiet == [drawn(logits, [at])[0] for at in range(30)]
    spoiled = {2: float("nan"), 11: float("inf"), 17: -float("inf"), 23: 3e38}
    for at, value in spoiled.items():
        logits[at, : 20000 - at] = value
    loud = drawn(logits, range(30))
    assert all(loud[at] == quiet[at] for at in range(30) if at not in spoiled)
    assert all(0 <= token < 20000 for token in loud)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.5}, {"typical_p": 0.5}, {"min_p": 0.5}, {"top_k": 5000}])
def test_equal_logits_are_all_as_likely(options):
    logits = torch.zeros(1, 20000, dtype=torch.bfloat16).expand(40, -1)
    sequences = [
        begun(SequenceRequest(id=at, prompt=[1], max_new_tokens=1, seed=at, **options), []) for at in range(40)
    ]
    assert len(set(sample(logits, sequences))) > 30


def test_a_seed_may_be_negative():
    drawn = []
    for seed in (-1, 1, -(2**63)):
        request = SequenceRequest(id=0, prompt=[1], max_new_tokens=1, seed=seed)
        drawn.append(begun(request, []).draw())
    assert len(set(drawn)) == 3

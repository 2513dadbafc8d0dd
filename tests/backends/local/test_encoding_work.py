"""Calls share passes, and each gets its own; a step is bounded; whoever fails or leaves, fails or leaves alone."""

import random

import pytest

from illm.core.events import Done, Failed, Tokens
from illm.core.requests import Embed, Tokenize
from illm.errors import GatewayError, Kind

np = pytest.importorskip("numpy")
pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.model

from illm.backends.local.encoding import PIECE_ITEMS, Task  # noqa: E402
from illm.backends.local.encoding_work import EncodingWork  # noqa: E402
from illm.backends.local.tokenising import Tokeniser  # noqa: E402
from illm.backends.local.work import Answered  # noqa: E402


class Sums:
    """An encoder without a model: what it makes of a row is the sum of its ids."""

    batch_tokens = 64

    def __init__(self, tokenizer):
        self.tokeniser = Tokeniser(tokenizer, "sums", limit=40, vocabulary=261)
        self.passes = []

    def task(self, request):
        if isinstance(request, Tokenize):
            return Answered((Tokens((1,)), Done(None)))
        items, finish = list(request.inputs), lambda outcomes, tokens: (tuple(map(float, outcomes)), tokens)
        return Task(items, lambda at: f"input[{at}]", self.tokeniser.room(request.cut), finish)

    def run(self, rows):
        self.passes.append([row.shape[1] for row in rows])
        return np.array([row[0].sum() for row in rows], np.float32)


@pytest.fixture
def sums(byte_tokenizer):
    return Sums(byte_tokenizer())


def embed(*inputs):
    return Embed(inputs=inputs)


def drain(work):
    answers = {}
    while work.busy:
        answers |= dict(work.step())
    return answers


@pytest.mark.parametrize("seed", range(5))
def test_each_call_gets_its_own_whatever_comes_when(sums, seed):
    rng = random.Random(seed)
    work = EncodingWork(sums)
    asked, answers = {}, {}
    for key in range(20):
        texts = ["".join(rng.choices("abcde ", k=rng.randint(0, 30))) for _ in range(rng.choice((1, 1, 3, 40)))]
        asked[key] = texts
        work.add(key, work.prepare(embed(*texts)))
        for _ in range(rng.randint(0, 3)):
            answers |= dict(work.step())
    answers |= drain(work)
    for key, texts in asked.items():
        ids = [sums.tokeniser.tokenizer.encode(text) for text in texts]
        assert answers[key] == (tuple(float(sum(row)) for row in ids), sum(map(len, ids)))
    assert all(len(lengths) * max(lengths) <= sums.batch_tokens for lengths in sums.passes)


def test_a_long_list_is_tokenised_in_pieces_and_others_pass_it(sums):
    work = EncodingWork(sums)
    many = work.prepare(embed(*["abc"] * (4 * PIECE_ITEMS)))
    assert len(many.rows) == PIECE_ITEMS
    work.add(1, many)
    work.step()
    assert sums.passes == []  # before all of its rows are known to fit, none is run
    work.add(2, work.prepare(embed("x")))
    assert 2 in dict(work.step())
    answers = drain(work)
    assert len(answers[1][0]) == 4 * PIECE_ITEMS


def test_what_does_not_fit_far_down_a_list_is_said_before_anything_is_run(sums):
    work = EncodingWork(sums)
    work.add(1, work.prepare(embed(*["abc"] * 600, "y" * 50)))
    [(key, (failed,))] = [answer for _ in range(4) for answer in work.step()]
    assert (key, type(failed), failed.error.param) == (1, Failed, "input[600]")
    assert sums.passes == []
    assert not work.busy


@pytest.mark.parametrize("count", [3, 4 * 256])
def test_who_leaves_takes_nothing_with_them_and_leaves_nothing_behind(sums, count):
    work = EncodingWork(sums)
    work.add(1, work.prepare(embed(*["abc"] * count)))
    work.add(2, work.prepare(embed("abcd")))
    work.step()
    work.abort(1)
    work.abort(7)
    before = len(sums.passes)
    answers = drain(work)
    assert set(answers) <= {2}
    assert len(sums.passes) <= before + 1
    assert not work.busy
    assert work.step() == []


def test_a_failure_at_the_end_is_that_call_s(sums, monkeypatch):
    work = EncodingWork(sums)
    task = work.prepare(embed("a"))

    def finish(outcomes, tokens):
        raise GatewayError(Kind.INTERNAL, "no")

    task.finish = finish
    work.add(1, task)
    work.add(2, work.prepare(embed("b")))
    answers = drain(work)
    assert isinstance(answers[1][0], Failed)
    assert answers[2][1] == 2


def test_what_needs_no_model_is_answered_at_once(sums):
    assert isinstance(EncodingWork(sums).prepare(Tokenize(prompt="x")), Answered)


def test_nothing_is_an_empty_answer_not_a_dead_engine(sums):
    assert EncodingWork(sums).prepare(embed()) == Answered(((), 0))

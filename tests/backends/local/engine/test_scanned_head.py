"""A head in four bits for one row: the likeliest tokens are exact, and who needs more does not get it."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from torch import nn

from illm.backends.local.engine import SequenceRequest, engine_for, scanned_head
from illm.backends.local.engine.int8 import Int8Linear
from illm.backends.local.engine.scanned_head import ScannedHead, suffices, suits
from illm.backends.local.engine.scheduler import Piece
from illm.backends.local.engine.sequence import LiveSequence

from .tiny import make, prompt

pytestmark = pytest.mark.model

VOCABULARY = 1024
EXACT = 16


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(scanned_head, "EXACT", EXACT)

    def make_engine(**options):
        model = make("llama", dtype=torch.bfloat16, hidden_size=64, vocab_size=VOCABULARY, tie_word_embeddings=True)
        made = engine_for(model, lambda ids: "".join(f"{i} " for i in ids), kv_tokens=1024, quantize="int8", **options)
        if made.quantized != "int8":
            pytest.skip("this torch or processor lacks the operators")
        return model, made

    return make_engine


def head(count=EXACT, ins=128):
    torch.manual_seed(0)
    linear = nn.Linear(ins, VOCABULARY, bias=False, dtype=torch.bfloat16)
    return linear, ScannedHead(linear.weight, linear, count)


def request(number=1, **options):
    values = {"prompt": prompt(8), "max_new_tokens": 12, "temperature": 0.0} | options
    return SequenceRequest(id=number, **values)


def said(engine, *requests):
    for one in requests:
        engine.add(one)
    texts = {}
    while engine.busy:
        for output in engine.step():
            texts[output.id] = texts.get(output.id, "") + output.text
    return texts


def piece(**options):
    return Piece(LiveSequence(request(**options), str), 0, 8, True)


@torch.inference_mode()
def test_the_likeliest_are_exact_and_the_rest_is_near():
    linear, scanned = head()
    scanned.enough = True
    for row in torch.randn(20, 1, 1, 128, dtype=torch.bfloat16):
        found, exact = scanned(row)[0, 0].float(), linear(row)[0, 0].float()
        assert int(found.argmax()) == int(exact.argmax())
        likeliest = exact.topk(4).indices
        assert torch.allclose(found[likeliest], exact[likeliest], rtol=0.01)
        assert 0 < (found - exact).norm() < 0.15 * exact.norm()


@torch.inference_mode()
def test_the_largest_of_a_row_are_among_those_that_are_found():
    for seed in range(20):
        torch.manual_seed(seed)
        row = torch.randn(VOCABULARY).bfloat16()
        found = scanned_head._top(row, EXACT)
        assert len(set(found.tolist())) == len(found) >= EXACT
        larger = row > row.topk(EXACT).values.amin()
        assert set(larger.nonzero()[:, 0].tolist()) <= set(found.tolist())


@torch.inference_mode()
@pytest.mark.parametrize("worst", [float("nan"), float("inf"), 0.0])
def test_a_row_of_no_numbers_passes(worst):
    _, scanned = head()
    scanned.enough = True
    assert scanned(torch.full((1, 1, 128), worst, dtype=torch.bfloat16)).shape == (1, 1, VOCABULARY)


@torch.inference_mode()
def test_more_rows_and_whoever_needs_all_get_the_other_head():
    linear, scanned = head()
    rows = torch.randn(1, 3, 128, dtype=torch.bfloat16)
    assert torch.equal(scanned(rows[:, :1]), linear(rows[:, :1]))
    scanned.enough = True
    assert torch.equal(scanned(rows), linear(rows))
    assert scanned(rows[:, :0]).shape == (1, 0, VOCABULARY)
    one_by_one = torch.cat([scanned(rows[:, at : at + 1]) for at in range(3)], 1)
    scanned.most = 3
    assert torch.equal(scanned(rows), one_by_one)
    assert not torch.equal(scanned(rows[:, :1]), linear(rows[:, :1]))


@pytest.mark.parametrize(
    ("options", "enough"),
    [
        ({}, True),
        ({"temperature": 1.0, "top_p": 0.9, "min_p": 0.1, "seed": 3}, True),
        ({"temperature": 1.5, "top_k": 40}, True),
        ({"repetition_penalty": 1.1, "presence_penalty": 1.0, "frequency_penalty": 1.0, "min_tokens": 3}, True),
        ({"temperature": 1.5}, False),
        ({"temperature": 1.5, "top_k": 1000}, False),
        ({"logprobs": 0}, False),
        ({"logprobs": 0, "prompt_scores": True}, False),
        ({"typical_p": 0.9}, False),
        ({"logit_bias": {3: 1.0}}, False),
        ({"repetition_penalty": 0.9}, False),
        ({"presence_penalty": -1.0}, False),
        ({"frequency_penalty": -1.0}, False),
    ],
)
def test_who_needs_more_than_the_likeliest(options, enough):
    assert suffices([piece(**options)]) is enough
    assert not suffices([piece(**options), piece(**options)])


def test_a_grammar_needs_all():
    class Grammar:
        def start(self, eos):
            return self

    assert not suffices([piece(constraint=Grammar())])


def test_alone_it_is_used_and_says_the_same_for_a_seed(engine):
    model, made = engine()
    assert isinstance(model.lm_head, ScannedHead)
    seeded = {"temperature": 1.0, "top_p": 0.9, "seed": 7}
    first = said(made, request(1, **seeded))
    assert made._scanned.enough
    assert said(made, request(1, **seeded)) == first
    said(made, request(1, logprobs=1, **seeded))
    assert not made._scanned.enough
    said(made, request(1), request(2))
    assert not made._scanned.enough


def test_without_the_private_operator_the_other_head_stays(engine, monkeypatch, caplog):
    def gone(self, weight, whole, exact):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(ScannedHead, "__init__", gone)
    model, made = engine()
    assert isinstance(model.lm_head, Int8Linear)
    assert "a head in four bits is not used for one row: RuntimeError: no such operator" in caplog.text
    assert said(made, request(1))


def test_small_or_other_heads_stay():
    def linear(outs=64 * 512, ins=64, **options):
        return nn.Linear(ins, outs, device="meta", **({"bias": False, "dtype": torch.bfloat16} | options))

    assert suits(linear())
    for other in (linear(outs=32000), linear(ins=48), linear(bias=True), linear(dtype=torch.float32)):
        assert not suits(other)

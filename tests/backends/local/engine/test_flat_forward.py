"""A forward of packed layers without the model's modules: the same bits, or the model's own."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import logging

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from illm.backends.local.engine import Engine, SequenceRequest
from illm.backends.local.engine.flat_forward import FlatForward
from illm.backends.local.engine.joined import JoinedLinear
from illm.backends.local.engine.packed import PackedLinear

from .tiny import make, prompt

pytestmark = pytest.mark.model

_SIZES = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.06}
# With the windows that `ARCHITECTURES` gives them: all are passed here.
_KNOWN = ["llama", "mistral", "qwen3", "gemma3"]


def engine_of(model, **options):
    engine = Engine(model, str, kv_tokens=512, **options)
    if not any(isinstance(module, PackedLinear | JoinedLinear) for module in model.modules()):
        pytest.skip("this torch or processor lacks the operators")
    return engine


def flat_of(engine):
    return next((way for way in engine._runner.written if isinstance(way, FlatForward)), None)


class Both:
    """Computes each forward in both ways, and keeps whether their bits are the same, by the number of tokens."""

    def __init__(self, engine):
        self.runner, self.flat, self.same = engine._runner, flat_of(engine), {}
        self.runner.run, self._run = self.run, self.runner.run

    def run(self, pieces):
        self.runner.written = ()
        computed = [piece.sequence.computed for piece in pieces]
        expected = self._run(pieces)[1]
        for piece, number in zip(pieces, computed, strict=True):
            piece.sequence.computed = number
        self.runner.written = (self.flat,)
        found = self._run(pieces)
        self.same.setdefault(sum(piece.size for piece in pieces), []).append(torch.equal(expected, found[1]))
        return found


def drive(engine, requests):
    outputs = []
    for after, request in requests:
        for _ in range(after):
            outputs += engine.step()
        engine.add(request)
    while engine.busy:
        outputs += engine.step()
    return outputs


def requests(count, tokens=12):
    return [
        (at % 3, SequenceRequest(id=at, prompt=prompt(3 + 17 * at % 60, at), max_new_tokens=tokens, logprobs=2))
        for at in range(count)
    ]


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("family", _KNOWN)
def test_every_bit_is_the_models_own_whoever_is_in_the_batch(family, quantize):
    engine = engine_of(make(family, dtype=torch.bfloat16, **_SIZES), quantize=quantize, busy_chunk=16)
    assert flat_of(engine) is not None
    both = Both(engine)
    drive(engine, requests(7))
    assert all(all(same) for same in both.same.values()), both.same
    assert {1, 2, 3, 5} < set(both.same)
    assert max(both.same) > 16


def test_one_row_of_a_rounded_model_is_not_for_it():
    exact, rounded = (
        engine_of(make("llama", dtype=torch.bfloat16, **_SIZES), quantize=kind) for kind in ("none", "int8")
    )
    assert [flat_of(exact).takes(count) for count in (1, 2)] == [True, True]
    assert [flat_of(rounded).takes(count) for count in (1, 2)] == [rounded.quantized == "none", True]


@pytest.mark.parametrize("family", ["phi3", "gpt2"])
def test_other_families_keep_their_own(family, caplog):
    model = make(family, dtype=torch.bfloat16, **({} if family == "gpt2" else _SIZES))
    with caplog.at_level(logging.INFO):
        engine = Engine(model, str, kv_tokens=256)
    assert flat_of(engine) is None
    assert not any(isinstance(module, JoinedLinear) for module in model.modules())
    assert sum(output.tokens for output in drive(engine, requests(2, 4))) == 8


def test_one_other_bit_and_the_model_keeps_its_own(caplog):
    model = make("llama", dtype=torch.bfloat16, **_SIZES)
    layer = type(model.model.layers[1])

    class Louder(layer):
        def forward(self, *args, **options):
            return super().forward(*args, **options) * 1.01

    model.model.layers[1].__class__ = Louder
    with caplog.at_level(logging.INFO):
        engine = engine_of(model)
    assert flat_of(engine) is None
    assert "written out it says something else" in caplog.text
    assert sum(output.tokens for output in drive(engine, requests(3, 4))) == 12


def test_whatever_fails_in_it_the_model_is_served(monkeypatch, caplog):
    def gone(self, step, tokens, positions, rows):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(FlatForward, "logits", gone)
    with caplog.at_level(logging.INFO):
        engine = engine_of(make("llama", dtype=torch.bfloat16, **_SIZES))
    assert flat_of(engine) is None
    assert "RuntimeError: no such operator" in caplog.text
    assert sum(output.tokens for output in drive(engine, requests(3, 4))) == 12


def test_layers_with_a_bias_keep_their_own(caplog):
    model = make("llama", dtype=torch.bfloat16, attention_bias=True, **_SIZES)
    with caplog.at_level(logging.INFO):
        engine = engine_of(model)
    assert flat_of(engine) is None
    assert "its layers are not one product" in caplog.text
    assert isinstance(model.model.layers[0].self_attn.q_proj, PackedLinear)
    assert isinstance(model.model.layers[0].mlp.up_proj, JoinedLinear)
    assert sum(output.tokens for output in drive(engine, requests(2, 4))) == 8


def test_float32_is_left_alone():
    model = make("llama", **_SIZES)
    engine = Engine(model, str, kv_tokens=256)
    assert not engine._runner.written
    assert type(model.model.layers[0].self_attn.q_proj) is torch.nn.Linear


def test_the_blocks_that_were_borrowed_are_given_back():
    engine = engine_of(make("llama", dtype=torch.bfloat16, **_SIZES))
    stats = engine.stats
    assert (stats.kv_used, stats.kv_cached) == (0, 0)

"""A step of one rounded sequence without the model's modules: what the model's own says, or not at all."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import logging

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from illm.backends.local.engine import Engine, SequenceRequest
from illm.backends.local.engine.flat_decode import FlatDecode

from .tiny import make, prompt

pytestmark = pytest.mark.model

_SIZES = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.06}
# With the windows that `ARCHITECTURES` gives them: all are passed here.
_KNOWN = ["llama", "mistral", "qwen3", "gemma3"]
_LENGTH = 40


def engine_of(model, **options):
    engine = Engine(model, str, kv_tokens=256, quantize="int8", **options)
    if engine.quantized == "none":
        pytest.skip("this torch or processor lacks the operators")
    return engine


def written(engine, ids, count=8, **options):
    engine.add(SequenceRequest(id=1, prompt=ids, max_new_tokens=count, logprobs=3, **options))
    outputs = []
    while engine.busy:
        outputs += engine.step()
    return outputs


class Counting:
    def __init__(self, flat):
        self.flat, self.steps = flat, 0

    def logits(self, piece, kv):
        self.steps += 1
        return self.flat.logits(piece, kv)


@pytest.mark.parametrize("family", _KNOWN)
def test_its_logits_are_those_of_the_model_itself(family):
    model = make(family, dtype=torch.bfloat16, **_SIZES)
    exact = make(family, dtype=torch.bfloat16, **_SIZES).float()
    engine = engine_of(model, prefix_cache=False)
    flat = engine._runner.one_token
    assert isinstance(flat, FlatDecode)
    ids = prompt(_LENGTH)
    seen = []

    class Watching:
        def logits(self, piece, kv):
            rows = flat.logits(piece, kv)
            seen.append((piece.sequence.tokens[: piece.start + 1], rows[0].float()))
            return rows

    engine._runner.one_token = Watching()
    written(engine, ids)
    assert len(seen) == 7  # the first token is the prompt's
    for tokens, row in seen:
        with torch.inference_mode():
            expected = exact(torch.tensor([tokens])).logits[0, -1]
        # What rounding weights and states does; a wrong window or turn is of the order of one.
        assert (row - expected).norm() < 0.1 * (expected - expected.mean()).norm()


@pytest.mark.parametrize("family", ["phi3", "gpt2"])
def test_other_layers_keep_their_own_step(family, caplog):
    sizes = {} if family == "gpt2" else _SIZES
    with caplog.at_level(logging.INFO):
        engine = engine_of(make(family, dtype=torch.bfloat16, **sizes))
    assert engine._runner.one_token is None
    assert f"{family} is not a family that is known here" in caplog.text
    assert sum(output.tokens for output in written(engine, prompt(5))) == 8


def test_a_model_that_does_more_keeps_its_own_step(caplog):
    model = make("llama", dtype=torch.bfloat16, **_SIZES)
    layer = type(model.model.layers[1])

    class Louder(layer):
        def forward(self, *args, **options):
            return super().forward(*args, **options) * 2

    model.model.layers[1].__class__ = Louder
    with caplog.at_level(logging.INFO):
        engine = engine_of(model)
    assert engine._runner.one_token is None
    assert "says something else" in caplog.text


def test_layers_of_another_make_keep_their_own_step(caplog):
    model = make("llama", dtype=torch.bfloat16, **_SIZES | {"hidden_size": 48})  # too narrow for the kernel
    with caplog.at_level(logging.INFO):
        assert engine_of(model)._runner.one_token is None
    assert "PackedLinear is not a layer that is known here" in caplog.text


def test_a_part_that_is_not_known_keeps_its_own_step(caplog):
    model = make("llama", dtype=torch.bfloat16, **_SIZES)
    model.model.layers[1].gate = torch.nn.Identity()
    with caplog.at_level(logging.INFO):
        assert engine_of(model)._runner.one_token is None
    assert "other parts" in caplog.text


def test_a_cap_of_the_logits_keeps_its_own_step(caplog):
    model = make("gemma3", dtype=torch.bfloat16, final_logit_softcapping=30.0, **_SIZES)
    with caplog.at_level(logging.INFO):
        assert engine_of(model)._runner.one_token is None
    assert "caps its logits" in caplog.text


def test_whatever_fails_in_it_the_model_is_served(monkeypatch, caplog):
    def gone(self, piece, kv):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(FlatDecode, "logits", gone)
    with caplog.at_level(logging.INFO):
        engine = engine_of(make("llama", dtype=torch.bfloat16, **_SIZES))
    assert engine._runner.one_token is None
    assert "RuntimeError: no such operator" in caplog.text
    assert sum(output.tokens for output in written(engine, prompt(5))) == 8


def test_only_a_sequence_that_decodes_alone_takes_it():
    engine = engine_of(make("llama", dtype=torch.bfloat16, **_SIZES), prefix_cache=False)
    counting = engine._runner.one_token = Counting(engine._runner.one_token)
    written(engine, prompt(5), count=4)
    assert counting.steps == 3
    for number in (1, 2):
        engine.add(SequenceRequest(id=number, prompt=prompt(5, number), max_new_tokens=4))
    while engine.busy:
        engine.step()
    assert counting.steps == 3


def test_int8_off_has_none():
    engine = Engine(make("llama", dtype=torch.bfloat16, **_SIZES), str, kv_tokens=256)
    assert engine._runner.one_token is None

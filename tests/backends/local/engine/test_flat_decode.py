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


def flat_of(engine):
    return next((way for way in engine._runner.written if isinstance(way, FlatDecode)), None)


class Watching:
    """What takes the place of a step written out, and notes each token and its logits."""

    def __init__(self, engine):
        self.flat, self.seen = flat_of(engine), []
        engine._runner.written = [self if way is self.flat else way for way in engine._runner.written]

    def takes(self, tokens):
        return self.flat.takes(tokens)

    def logits(self, step, tokens, positions, rows):
        logits = self.flat.logits(step, tokens, positions, rows)
        self.seen.append((tokens[0], positions[0], logits.float()))
        return logits


@pytest.mark.parametrize("family", _KNOWN)
def test_its_logits_are_those_of_the_model_itself(family):
    model = make(family, dtype=torch.bfloat16, **_SIZES)
    exact = make(family, dtype=torch.bfloat16, **_SIZES).float()
    engine = engine_of(model, prefix_cache=False)
    watching = Watching(engine)
    assert watching.flat is not None
    ids = prompt(_LENGTH)
    written(engine, ids)
    assert len(watching.seen) == 7  # the first token is the prompt's
    tokens = list(ids)
    for token, position, [row] in watching.seen:
        assert position == len(tokens)
        tokens.append(token)
        with torch.inference_mode():
            expected = exact(torch.tensor([tokens])).logits[0, -1]
        # What rounding weights and states does; a wrong window or turn is of the order of one.
        assert (row - expected).norm() < 0.1 * (expected - expected.mean()).norm()


@pytest.mark.parametrize("family", ["phi3", "gpt2"])
def test_other_layers_keep_their_own_step(family, caplog):
    sizes = {} if family == "gpt2" else _SIZES
    with caplog.at_level(logging.INFO):
        engine = engine_of(make(family, dtype=torch.bfloat16, **sizes))
    assert flat_of(engine) is None
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
    assert flat_of(engine) is None
    assert "says something else" in caplog.text


class Spoiling:
    """Attends rightly, and leaves wrong values for the next step."""

    def __init__(self, step):
        self.step = step

    def attend(self, module, query, key, value, options):
        seen = self.step.attend(module, query, key, value, options)
        stored = self.step._kv.values[module.layer_idx]
        stored.index_copy_(0, self.step._slots, -value[0].transpose(0, 1))
        return seen


def test_a_wrong_past_keeps_the_models_own_step(monkeypatch, caplog):
    logits = FlatDecode.logits
    monkeypatch.setattr(FlatDecode, "logits", lambda self, step, *rest: logits(self, Spoiling(step), *rest))
    with caplog.at_level(logging.INFO):
        engine = engine_of(make("llama", dtype=torch.bfloat16, **_SIZES))
    assert flat_of(engine) is None
    assert "says something else" in caplog.text


def test_layers_of_another_make_keep_their_own_step(caplog):
    model = make("llama", dtype=torch.bfloat16, **_SIZES | {"hidden_size": 48})  # too narrow for the kernel
    with caplog.at_level(logging.INFO):
        assert flat_of(engine_of(model)) is None
    assert "JoinedLinear is not a layer that is known here" in caplog.text


def test_a_part_that_is_not_known_keeps_its_own_step(caplog):
    model = make("llama", dtype=torch.bfloat16, **_SIZES)
    model.model.layers[1].gate = torch.nn.Identity()
    with caplog.at_level(logging.INFO):
        assert flat_of(engine_of(model)) is None
    assert "other parts" in caplog.text


def test_a_cap_of_the_logits_keeps_its_own_step(caplog):
    model = make("gemma3", dtype=torch.bfloat16, final_logit_softcapping=30.0, **_SIZES)
    with caplog.at_level(logging.INFO):
        assert flat_of(engine_of(model)) is None
    assert "caps its logits" in caplog.text


def test_whatever_fails_in_it_the_model_is_served(monkeypatch, caplog):
    def gone(self, step, tokens, positions, rows):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(FlatDecode, "logits", gone)
    with caplog.at_level(logging.INFO):
        engine = engine_of(make("llama", dtype=torch.bfloat16, **_SIZES))
    assert flat_of(engine) is None
    assert "RuntimeError: no such operator" in caplog.text
    assert sum(output.tokens for output in written(engine, prompt(5))) == 8


def test_only_a_sequence_that_decodes_alone_takes_it():
    engine = engine_of(make("llama", dtype=torch.bfloat16, **_SIZES), prefix_cache=False)
    watching = Watching(engine)
    written(engine, prompt(5), count=4)
    assert len(watching.seen) == 3
    for number in (1, 2):
        engine.add(SequenceRequest(id=number, prompt=prompt(5, number), max_new_tokens=4))
    while engine.busy:
        engine.step()
    assert len(watching.seen) == 3


def test_int8_off_has_none():
    engine = Engine(make("llama", dtype=torch.bfloat16, **_SIZES), str, kv_tokens=256)
    assert flat_of(engine) is None

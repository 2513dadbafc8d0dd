"""An int8 head: near the exact one, and no row feels its neighbours."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from torch import nn

from illm.backends.local.engine import SequenceRequest, engine_for
from illm.backends.local.engine.int8 import Int8Linear, head_for, quantize_head
from illm.backends.local.engine.transformers_loop import TransformersEngine

from .tiny import make, prompt

pytestmark = pytest.mark.model


def spell(ids):
    return "".join(f"{token} " for token in ids)


def run(engine, *requests):
    for one in requests:
        engine.add(one)
    said = {}
    while engine.busy:
        for output in engine.step():
            said.setdefault(output.id, []).extend(int(word) for word in output.text.split())
    return said


def request(number, ids=None, **options):
    values = {"prompt": ids or prompt(8), "max_new_tokens": 12, "temperature": 0} | options
    return SequenceRequest(id=number, **values)


@pytest.fixture(autouse=True)
def able():
    if head_for(make("llama"), "int8") is None:
        pytest.skip("this torch or processor lacks the operators")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_near_the_exact_layer(dtype, bias):
    torch.manual_seed(0)
    linear = nn.Linear(96, 200, bias=bias, dtype=dtype)
    rows = torch.randn(2, 3, 96, dtype=dtype)
    with torch.inference_mode():
        exact, small = linear(rows).float(), Int8Linear(linear)(rows)
    assert (small.dtype, small.shape) == (dtype, exact.shape)
    assert (small.float() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("count", [1, 2, 7, 32])
@pytest.mark.parametrize("neighbour", [0.0, 1e30, float("inf"), float("nan")])
def test_no_row_feels_its_neighbours(count, neighbour):
    torch.manual_seed(1)
    layer = Int8Linear(nn.Linear(96, 200, bias=False, dtype=torch.bfloat16))
    rows = torch.randn(count + 1, 96, dtype=torch.bfloat16)
    with torch.inference_mode():
        alone = torch.cat([layer(row[None]) for row in rows])
        together = layer(rows)
        rows[-1] = neighbour
        disturbed = layer(rows)
    assert torch.equal(alone, together)
    assert torch.equal(disturbed[:-1], together[:-1])


def test_tied_weights_stay_what_they_are_in_the_embedding():
    model = make("llama", dtype=torch.bfloat16, tie_word_embeddings=True)
    table = model.get_input_embeddings().weight.detach().clone()
    ids = torch.tensor([prompt(20)])
    with torch.inference_mode():
        before = model(ids).logits.float()
        quantize_head(model, head_for(model, "int8"))
        after = model(ids).logits.float()
    assert isinstance(model.lm_head, Int8Linear)
    assert torch.equal(model.get_input_embeddings().weight, table)
    assert (before - after).norm() < 0.05 * before.norm()


@pytest.mark.parametrize("make_engine", [engine_for, TransformersEngine])
def test_a_sequence_says_the_same_whoever_runs_beside_it(make_engine):
    engine = make_engine(make("qwen3"), spell, kv_tokens=1024, quantize="int8")
    assert engine.quantized == "int8"
    alone = run(engine, request(1))
    assert len(alone[1]) == 12
    crowd = [request(number, prompt(8, number), temperature=5.0, seed=number) for number in range(2, 6)]
    assert run(engine, *crowd, request(1))[1] == alone[1]


def test_none_is_the_default():
    engine = engine_for(make("llama"), spell, kv_tokens=64)
    assert engine.quantized == "none"


def test_without_the_private_operators_the_model_stays_exact(monkeypatch, caplog):
    def gone(self, linear):
        raise RuntimeError("no such operator")

    model = make("llama")
    expected = run(engine_for(make("llama"), spell, kv_tokens=256), request(1))
    monkeypatch.setattr(Int8Linear, "__init__", gone)
    engine = engine_for(model, spell, kv_tokens=256, quantize="int8")
    assert engine.quantized == "none"
    assert "int8 is not used: RuntimeError: no such operator" in caplog.text
    assert run(engine, request(1)) == expected


def test_elsewhere_than_on_the_cpu_it_is_said_and_not_done(caplog):
    model = make("llama").to("meta")
    assert head_for(model, "int8") is None
    assert "for the CPU" in caplog.text

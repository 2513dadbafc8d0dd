"""One row alone: int8 weights through the int4 kernel, near the exact layer; and norms the same to the last bit."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from torch import nn

from illm.backends.local.engine import engine_for
from illm.backends.local.engine.norms import FusedNorm, LooseNorm, fuse_norms, loosen_norms
from illm.backends.local.engine.one_row import OneRowLinear, SplitInt8, lighten
from illm.backends.local.engine.packed import PackedLinear, pack

from .tiny import make, prompt

pytestmark = pytest.mark.model


@pytest.fixture
def packed():
    model = make("llama", dtype=torch.bfloat16, hidden_size=64, intermediate_size=128)
    if not pack(model):
        pytest.skip("this torch or processor lacks the operators")
    return model


def plain(outs=48, ins=128):
    torch.manual_seed(0)
    return nn.Linear(ins, outs, bias=False, dtype=torch.bfloat16)


def test_weights_in_two_halves_are_near_the_exact_ones():
    linear = plain()
    row = torch.randn(1, 128, dtype=torch.bfloat16)
    with torch.inference_mode():
        exact = linear.weight.double() @ row[0].double()
        split = SplitInt8(linear.weight)(row)[0].double()
    assert (split - exact).norm() < 0.012 * exact.norm()


def test_extremes_and_zeros_keep_their_places():
    weight = torch.zeros(16, 128, dtype=torch.bfloat16)
    weight[3, 5], weight[4, 70], weight[4, 71] = 1e4, -1e-4, 1e-4
    with torch.inference_mode():
        told = torch.cat([SplitInt8(weight)(row[None]) for row in torch.eye(128, dtype=torch.bfloat16)])
    assert torch.allclose(told.t().float(), weight.float(), rtol=0.01, atol=0)


def test_more_rows_than_one_stay_exact(packed):
    layer = packed.model.layers[0].mlp.gate_proj
    both = OneRowLinear(layer)
    rows = torch.randn(1, 3, 64, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(both(rows), layer(rows))
        one = both(rows[:, :1])
        assert one.shape == (1, 1, 128)
        assert 0 < (one - layer(rows)[:, :1]).float().norm() < 0.02 * one.float().norm()


def test_every_layer_of_the_body_that_suits_gets_them(packed):
    ids = torch.tensor([prompt(1)])
    with torch.inference_mode():
        before = packed(ids).logits.float()
        assert lighten(packed) == 7 * len(packed.model.layers)
        after = packed(ids).logits.float()
    assert isinstance(packed.lm_head, PackedLinear)
    assert (before - after).norm() < 0.05 * before.norm()


def test_without_the_private_operators_the_body_stays_exact(packed, monkeypatch, caplog):
    def gone(self, weight):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(SplitInt8, "__init__", gone)
    assert lighten(packed) == 0
    assert "int8 is not used for the body: RuntimeError: no such operator" in caplog.text
    assert isinstance(packed.model.layers[0].mlp.gate_proj, PackedLinear)


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_only_who_asks_gets_int8(quantize):
    model = make("llama", dtype=torch.bfloat16, hidden_size=64)
    engine = engine_for(model, str, kv_tokens=64, quantize=quantize)
    assert any(isinstance(module, OneRowLinear) for module in model.modules()) == (engine.quantized == "int8")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_fused_norms_give_the_same_bits(kind, dtype):
    model = make(kind, dtype=dtype)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_()
    ids = torch.tensor([prompt(9)])
    with torch.inference_mode():
        before = model(ids).logits
        assert fuse_norms(model) == sum(isinstance(module, FusedNorm) for module in model.modules()) > 2
        assert torch.equal(model(ids).logits, before)


class OtherRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((8,), 0.5))
        self.eps = 1e-6

    def forward(self, rows):
        return torch.tanh(self.weight * rows)


class GatedRMSNorm(OtherRMSNorm):
    def forward(self, rows, gate=None):
        normed = self.weight * nn.functional.rms_norm(rows, (8,), None, self.eps)
        return normed if gate is None else normed * gate


@pytest.mark.parametrize("norm", [OtherRMSNorm, GatedRMSNorm])
def test_a_norm_of_another_kind_stays(norm):
    model = nn.Sequential(norm())
    assert fuse_norms(model) == 0
    assert type(model[0]) is norm


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 0, 1)])
def test_layers_with_one_input_are_one_product_and_no_row_is_mistaken_for_another(packed, order):
    attention = packed.model.layers[0].self_attn
    alone = [OneRowLinear(layer) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    assert lighten(packed)
    joined = [attention.q_proj, attention.k_proj, attention.v_proj]
    torch.manual_seed(0)
    with torch.inference_mode():
        buffer = torch.empty(1, 1, 64, dtype=torch.bfloat16)
        for _ in range(3):
            buffer.copy_(torch.randn(1, 1, 64))
            for which in order:
                if which == order[0]:
                    other = torch.randn(1, 1, 64, dtype=torch.bfloat16)
                    assert torch.equal(joined[which](other), alone[which](other))
                assert torch.equal(joined[which](buffer), alone[which](buffer))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_loose_norms_are_right_to_rounding_and_leave_what_they_are_given(kind, dtype):
    model = make(kind, dtype=dtype)
    fuse_norms(model)
    norms = [module for module in model.modules() if isinstance(module, FusedNorm)]
    torch.manual_seed(0)
    with torch.inference_mode():
        for norm in norms[:3]:
            loose = LooseNorm(norm)
            for size in (0, 1e-4, 1.0, 1e4):
                rows = (torch.randn(1, 3, len(norm.weight)) * size).to(dtype)
                kept = rows.clone()
                close = {"rtol": 1e-5, "atol": 1e-6} if dtype is torch.float32 else {"rtol": 0.016, "atol": 1e-6}
                assert torch.allclose(loose(rows), norm(rows), **close)
                assert torch.equal(rows, kept)
    assert loosen_norms(model) == len(norms)
    assert not any(isinstance(module, FusedNorm) for module in model.modules())


def test_the_exact_engine_keeps_exact_norms():
    exact, rounded = make("llama", dtype=torch.bfloat16), make("llama", dtype=torch.bfloat16)
    engine_for(exact, str, kv_tokens=64)
    engine = engine_for(rounded, str, kv_tokens=64, quantize="int8")
    assert not any(isinstance(module, LooseNorm) for module in exact.modules())
    assert any(isinstance(module, LooseNorm) for module in rounded.modules()) == (engine.quantized == "int8")

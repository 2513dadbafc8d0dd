"""Layers that are given the same rows, as one product: each says what it said alone."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from torch import nn

from illm.backends.local.engine.joined import JoinedLinear, join, together
from illm.backends.local.engine.norms import FusedNorm, LooseNorm, over_heads
from illm.backends.local.engine.packed import PackedLinear, pack

from .tiny import make, prompt

pytestmark = pytest.mark.model

_SIZES = {"hidden_size": 64, "intermediate_size": 128}


@pytest.fixture
def packed():
    model = make("llama", dtype=torch.bfloat16, **_SIZES)
    if not pack(model):
        pytest.skip("this torch or processor lacks the operators")
    return model


def test_what_is_given_the_same_rows_is_joined_and_nothing_else(packed):
    join(packed.model.layers)
    for layer in packed.model.layers:
        attention, forward = layer.self_attn, layer.mlp
        parts = attention.q_proj, attention.k_proj, attention.v_proj
        assert len({id(part.siblings) for part in parts}) == 1
        assert forward.gate_proj.siblings is forward.up_proj.siblings is not attention.q_proj.siblings
        assert type(attention.o_proj) is type(forward.down_proj) is PackedLinear
    assert type(packed.lm_head) is PackedLinear


def test_the_model_says_the_same_and_keeps_the_same_weights(packed):
    ids = torch.tensor([prompt(9)])
    attention = packed.model.layers[0].self_attn
    before = [attention.q_proj.weight(), attention.k_proj.weight(), attention.v_proj.weight()]
    with torch.inference_mode():
        expected = packed(ids).logits
        join(packed.model.layers)
        assert torch.equal(packed(ids).logits, expected)
    after = [attention.q_proj.weight(), attention.k_proj.weight(), attention.v_proj.weight()]
    assert all(map(torch.equal, before, after))
    assert [(part.in_features, part.out_features) for part in (attention.q_proj, attention.k_proj)] == [
        (64, len(before[0])),
        (64, len(before[1])),
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 0, 1)])
def test_no_rows_are_mistaken_for_others(packed, order):
    attention = packed.model.layers[0].self_attn
    alone = [attention.q_proj, attention.k_proj, attention.v_proj]
    join(packed.model.layers)
    joined = [attention.q_proj, attention.k_proj, attention.v_proj]
    assert all(type(part) is JoinedLinear for part in joined)
    with torch.inference_mode():
        for count in (1, 3):
            rows, others = (torch.randn(1, count, 64, dtype=torch.bfloat16) for _ in range(2))
            assert torch.equal(joined[0](others), alone[0](others))
            for which in order:
                assert torch.equal(joined[which](rows), alone[which](rows))


def test_layers_whose_bits_would_change_stay_alone(packed, monkeypatch):
    of = PackedLinear.of
    monkeypatch.setattr(PackedLinear, "of", lambda weight: of(weight * 1.01))
    join(packed.model.layers)
    assert not any(isinstance(module, JoinedLinear) for module in packed.modules())


def test_only_layers_of_one_width_are_together():
    layers = {name: nn.Linear(4 if name != "v_proj" else 8, 2) for name in ("q_proj", "k_proj", "v_proj")}
    layers |= {"gate_proj": nn.Linear(4, 2), "up_proj": nn.Linear(4, 2)}
    assert together(layers) == [("gate_proj", "up_proj"), ("q_proj",), ("k_proj",), ("v_proj",)]


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("loose", [True, False])
def test_a_norm_over_heads_is_the_norms_of_the_heads(loose, after):
    torch.manual_seed(0)
    norms = []
    for _ in range(2):
        weight = nn.Parameter(torch.randn(16, dtype=torch.bfloat16), requires_grad=False)
        norm = FusedNorm(weight, 1e-6, None if after else 1 + weight.float())
        norms.append(LooseNorm(norm) if loose else norm)
    rows = torch.randn(5, 4, 16, dtype=torch.bfloat16)
    expected = torch.cat((norms[0](rows[:, :3]), norms[1](rows[:, 3:])), 1)
    assert torch.equal(over_heads((norms[0], 3), (norms[1], 1))(rows), expected)


def test_norms_that_differ_have_none_in_common():
    def of(eps=1e-6, size=16):
        return FusedNorm(nn.Parameter(torch.ones(size)), eps, None)

    with pytest.raises(ValueError, match="not alike"):
        over_heads((of(), 2), (of(1e-5), 2))
    with pytest.raises(ValueError, match="not alike"):
        over_heads((of(), 2), (of(size=8), 2))
    with pytest.raises(TypeError, match="not of a kind"):
        over_heads((of(), 2), (LooseNorm(of()), 2))

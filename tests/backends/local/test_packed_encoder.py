"""Packed layers of an encoder: what comes out is the same, and a model that they would break keeps its own."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.model

from illm.backends.local.engine.packed import PackedLinear  # noqa: E402
from illm.backends.local.packed_encoder import pack_encoder  # noqa: E402

VOCABULARY = 96


@pytest.fixture
def bert():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    return transformers.BertModel(config).eval()


def states(model, rows, length):
    ids = torch.arange(rows * length).remainder(VOCABULARY).view(rows, length)
    mask = torch.ones_like(ids)
    mask[0, length // 2 + 1 :] = 0
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state.float()


def layers(model):
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_a_packed_encoder_computes_the_same(bert, dtype, near):
    bert.to(getattr(torch, dtype))
    shapes = [(1, 1), (1, 9), (7, 33)]
    expected = [states(bert, *shape) for shape in shapes]
    packed = pack_encoder(bert, "cpu")
    if dtype == "float32":
        assert packed == 13
    assert len(layers(bert)) == packed
    for shape, then in zip(shapes, expected, strict=True):
        assert torch.allclose(states(bert, *shape), then, atol=near, rtol=0)


def test_a_model_that_reaches_past_its_layers_keeps_them(bert, caplog):
    class Reaching(torch.nn.Module):
        def __init__(self, dense):
            super().__init__()
            self.dense = dense

        def forward(self, states):
            return self.dense(states.to(self.dense.weight.dtype))

    layer = bert.encoder.layer[0].intermediate
    layer.dense = Reaching(layer.dense)
    before = states(bert, 2, 5)
    assert pack_encoder(bert, "cpu") == 0
    assert not layers(bert)
    assert "packed layers are not used: AttributeError" in caplog.text
    assert torch.equal(states(bert, 2, 5), before)


def test_a_model_whose_states_would_change_keeps_its_layers(bert, caplog, monkeypatch):
    monkeypatch.setattr(PackedLinear, "forward", lambda self, rows: rows.new_ones(*rows.shape[:-1], self.out_features))
    assert pack_encoder(bert, "cpu") == 0
    assert not layers(bert)
    assert "packed layers are not used: they gave a wrong result" in caplog.text


def test_nothing_is_packed_where_nothing_gains(bert):
    assert pack_encoder(bert, "cuda") == 0
    assert pack_encoder(bert.to(torch.float16), "cpu") == 0
    assert not layers(bert)

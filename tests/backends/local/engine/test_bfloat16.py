"""In bfloat16 a different order of additions may decide between near equals, and nothing else."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from torch import nn

from illm.backends.local.engine import Engine, SequenceRequest
from illm.backends.local.engine.packed import PackedLinear, pack

from .tiny import ARCHITECTURES, generate, make, prompt

pytestmark = pytest.mark.model

NEW = 40
# Logits of these models spread over tens; bfloat16 has three decimal digits, and layers add up their rounding.
MARGIN = 0.5


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_first_difference_only_where_two_tokens_are_nearly_equal(name, packed):
    model = make(name, dtype=torch.bfloat16)
    prompts = [prompt(length) for length in (1, 5, 40, 70)]
    expected = [generate(model, ids, NEW, scores=True) for ids in prompts]
    engine = Engine(model, lambda ids: "".join(f"{token} " for token in ids), kv_tokens=1024, packed=packed)
    answers = {number: [] for number in range(len(prompts))}
    for number, ids in enumerate(prompts):
        engine.add(SequenceRequest(id=number, prompt=ids, max_new_tokens=NEW, temperature=0))
    while engine.busy:
        for output in engine.step():
            answers[output.id] += [int(word) for word in output.text.split()]
    compared = 0
    for number, (tokens, logits) in enumerate(expected):
        assert len(answers[number]) == NEW
        differences = [at for at in range(NEW) if tokens[at] != answers[number][at]]
        compared += differences[0] if differences else NEW
        if differences:
            best = logits[differences[0]][0].float().topk(2).values
            assert best[0] - best[1] < MARGIN
    assert compared > NEW


def test_packing_leaves_the_embedding_and_gives_the_same_logits():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 instructions to pack for")
    model = make("llama", dtype=torch.bfloat16, tie_word_embeddings=True)
    ids = torch.tensor([prompt(20)])
    with torch.inference_mode():
        before = model(ids).logits
        assert pack(model) == 3 * 7 + 1
        after = model(ids).logits
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert isinstance(model.lm_head, PackedLinear)
    assert model.get_input_embeddings().weight.shape == (model.config.vocab_size, model.config.hidden_size)
    assert (before.float() - after.float()).abs().max() < 0.05 * before.float().std()
    assert pack(model) == 0


def test_other_types_are_not_packed():
    assert pack(make("llama")) == 0


def test_without_the_private_operators_the_model_stays_as_it_is(monkeypatch, caplog):
    def gone(self, linear):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(PackedLinear, "__init__", gone)
    model = make("llama", dtype=torch.bfloat16)
    assert pack(model) == 0
    assert type(model.lm_head) is nn.Linear
    assert "not used" in caplog.text

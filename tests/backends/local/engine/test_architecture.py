"""What the engine drives, what it refuses, and that it notices when it is wrong."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
transformers = pytest.importorskip("transformers", reason="needs the extra `local`")

from illm.backends.local.engine import Engine, UnsupportedModel, supports
from illm.backends.local.engine.architecture import position_limit
from illm.backends.local.engine.attention import PackedStep

from .tiny import ARCHITECTURES, POSITIONS, make

pytestmark = pytest.mark.model

REFUSED = {
    "Gemma2Config": ({}, "soft-capped"),
    "DeepseekV3Config": ({}, "latent"),
    "T5Config": ({}, "encoder-decoder"),
    "MambaConfig": ({}, "recurrent"),
    "JambaConfig": ({}, "."),
    "Qwen3NextConfig": ({}, "linear"),
    "RwkvConfig": ({}, "recurrent"),
    "RecurrentGemmaConfig": ({}, "."),
    "GptOssConfig": ({}, "sinks"),
    "BloomConfig": ({}, "ALiBi"),
    "FalconConfig": ({"alibi": True}, "ALiBi"),
    "Llama4TextConfig": ({}, "."),
    "Gemma3TextConfig": ({"use_bidirectional_attention": True}, "bidirectional"),
}


def empty(ids):
    return ""


@pytest.mark.parametrize("kind", REFUSED)
def test_a_configuration_that_shows_why_not(kind):
    arguments, reason = REFUSED[kind]
    said = supports(getattr(transformers, kind)(**arguments))
    assert said is not None
    assert reason == "." or reason in said


DRIVEN = (
    "LlamaConfig",
    "Qwen2Config",
    "Qwen3Config",
    "Qwen3MoeConfig",
    "MistralConfig",
    "MixtralConfig",
    "Gemma3TextConfig",
    "Gemma3Config",
    "GPT2Config",
    "Phi3Config",
    "FalconConfig",
    "OlmoConfig",
)


@pytest.mark.parametrize("kind", DRIVEN)
def test_a_configuration_that_shows_no_reason(kind):
    assert supports(getattr(transformers, kind)()) is None


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_positions(name):
    assert position_limit(make(name).config) == POSITIONS


def test_no_position_is_used_that_would_change_the_neighbours():
    """Some rotary embeddings look at the longest position in the forward, from a certain length on."""
    long = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "rope_theta": 10000.0}
    config = transformers.Phi3Config(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=4096,
        original_max_position_embeddings=64,
        rope_parameters=long,
    )
    assert position_limit(config) == 64
    for kind in ("linear", "dynamic"):
        rope = {"rope_type": kind, "factor": 2.0, "rope_theta": 10000.0}
        assert position_limit(transformers.LlamaConfig(max_position_embeddings=4096, rope_parameters=rope)) == 4096


def test_a_refused_model_makes_no_engine():
    config = transformers.Gemma2Config(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UnsupportedModel, match="soft-capped"):
        Engine(model, empty, kv_tokens=64)


def test_a_model_that_goes_round_the_attention_interface_is_found_out():
    config = transformers.CodeGenConfig(vocab_size=50, n_embd=32, n_layer=1, n_head=4, rotary_dim=4, n_positions=64)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert supports(config) is None
    with pytest.raises(UnsupportedModel):
        Engine(model, empty, kv_tokens=64)


FAULTS = [
    (name, fault)
    for name, (_, _, window) in ARCHITECTURES.items()
    for fault in ("scaling", "future", "past", "window")
    if fault != "window" or window is not None
]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_forward_that_is_wrong_is_found_out(name, fault, monkeypatch):
    attend = PackedStep.attend

    def wrong(self, module, query, key, value, options):
        if fault == "scaling":
            options["scaling"] = 0.5 * options["scaling"]
        elif fault == "future":
            key, value = key.flip(2), value.flip(2)
        elif fault == "window":
            self._parts = dict.fromkeys(self._parts, self._parts.get(None) or full(self))
        elif fault == "past":
            key = torch.zeros_like(key) if query.shape[2] < 5 else key
        return attend(self, module, query, key, value, options)

    original = PackedStep.__init__

    def remember(self, pieces, kv):
        original(self, pieces, kv)
        self.pieces = pieces

    def full(step):
        from illm.backends.local.engine import attention

        return list(attention._parts(step.pieces, None, torch.float32, torch.device("cpu")))

    monkeypatch.setattr(PackedStep, "__init__", remember)
    monkeypatch.setattr(PackedStep, "attend", wrong)
    model = make(name)
    with pytest.raises(UnsupportedModel, match="disagree"):
        Engine(model, empty, kv_tokens=256)
    Engine(model, empty, kv_tokens=256, check=False)


def test_a_model_that_hides_its_window_is_found_out():
    model = make("llama")
    model.config.sliding_window = 16
    with pytest.raises(UnsupportedModel, match="window"):
        Engine(model, empty, kv_tokens=64)


def test_an_engine_can_be_made_again_over_the_same_model():
    model = make("mistral")
    for _ in range(2):
        Engine(model, empty, kv_tokens=64)

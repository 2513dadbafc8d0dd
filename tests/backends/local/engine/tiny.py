"""Tiny random models, one of each architecture, and what `generate` says about them.

Weights are drawn wide enough that greedy decoding does not get stuck on one token: a test over a model that repeats
itself would pass for an engine that computes nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import GenerationConfig

VOCABULARY = 199
POSITIONS = 512

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": POSITIONS,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
}

# name: configuration class, its arguments, the smallest sliding window
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "llama": ("LlamaConfig", _COMMON, None),
    "qwen3": (
        "Qwen3Config",
        _COMMON
        | {
            "use_sliding_window": True,
            "sliding_window": 12,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
        12,
    ),
    "mistral": ("MistralConfig", _COMMON | {"sliding_window": 10}, 10),
    "gemma3": (
        "Gemma3TextConfig",
        _COMMON
        | {
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
        },
        8,
    ),
    "gpt2": ("GPT2Config", _GPT2, None),
    "phi3": ("Phi3Config", _COMMON | {"sliding_window": 14, "num_key_value_heads": 4}, 14),
}


def make(name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    kind, arguments, _ = ARCHITECTURES[name]
    config = getattr(transformers, kind)(**(arguments | changes))
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype).eval()


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()


def generate(model: Any, ids: Sequence[int], count: int, *, scores: bool = False, **options: Any) -> Any:
    """Greedy, alone, by Transformers.  Complete on purpose: what is left out is filled in from the model's own."""
    config = GenerationConfig(
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=10**6,
        pad_token_id=0,
        output_logits=scores,
        return_dict_in_generate=True,
        **options,
    )
    row = torch.tensor([list(ids)])
    with torch.inference_mode():
        out = model.generate(row, attention_mask=torch.ones_like(row), generation_config=config)
    tokens = out.sequences[0, len(ids) :].tolist()
    assert len(tokens) == count
    return (tokens, out.logits) if scores else tokens

"""Which models the engine can drive, read off their configuration.

The engine replaces a model's attention function and nothing else, so it can drive what keeps its past in keys and
values only, and lets plain causal (or sliding-window) attention decide what a token sees.  A configuration can show
that this is not so; that it *is* so is shown by the self-check when an engine is made.
"""

from collections.abc import Iterator
from typing import Any

_KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})

# Attributes that, when set, say the past is not only keys and values, or attention not only causal.
_REFUSED = {
    "attn_logit_softcapping": "its attention scores are soft-capped",
    "kv_lora_rank": "it uses multi-head latent attention",
    "alibi": "it uses ALiBi",
    "use_bidirectional_attention": "its attention is bidirectional",
    "num_kv_shared_layers": "its layers share keys and values",
    "ssm_state_size": "it has recurrent layers",
    "state_size": "it has recurrent layers",
    "mamba_d_state": "it has recurrent layers",
    "linear_num_value_heads": "it has linear-attention layers",
    "layers_block_type": "it mixes attention with other layers",
    "block_types": "it mixes attention with other layers",
    "attention_chunk_size": "it uses chunked attention",
    "add_cross_attention": "it has cross-attention",
}
_REFUSED_TYPES = {
    "gpt_oss": "it uses attention sinks",
    "rwkv": "it is recurrent",
    "bloom": "it uses ALiBi",
    "mpt": "it uses ALiBi",
}
# Their frequencies depend on the longest position in the forward, beyond this many positions: there one sequence
# would change its neighbours.
_LENGTH_DEPENDENT_ROPE = {
    "longrope": "original_max_position_embeddings",
    "dynamic": "max_position_embeddings",
}


class UnsupportedModel(ValueError):  # noqa: N818  # names the thing refused
    """The engine cannot drive this model; the message says why."""


def supports(model_config: Any) -> str | None:
    """Return why the engine cannot drive such a model, or None where the configuration shows no reason.

    Args:
        model_config: a Transformers configuration.
    """
    if getattr(model_config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model"
    config = text_config(model_config)
    if reason := _REFUSED_TYPES.get(getattr(config, "model_type", "")):
        return reason
    for name, reason in _REFUSED.items():
        if getattr(config, name, None):
            return reason
    if getattr(config, "is_causal", True) is False:
        return "its attention is bidirectional"
    unknown = set(getattr(config, "layer_types", None) or ()) - _KNOWN_LAYERS
    if unknown:
        return f"it has layers of type {', '.join(sorted(unknown))}"
    return None


def text_config(model_config: Any) -> Any:
    """Return the part of a configuration that describes the text decoder."""
    return model_config.get_text_config(decoder=True)


def attention_of(model_config: Any, name: str) -> str | dict[str, str]:
    """Return how to tell a model to use the attention function `name`: in its text decoder only, where it has more."""
    config = text_config(model_config)
    parts = [part for part in model_config.sub_configs if getattr(model_config, part, None) is config]
    return {parts[0]: name} if parts else name


def position_limit(model_config: Any) -> int | None:
    """Return how many positions the model has and the engine can serve, or None where it does not say."""
    config = text_config(model_config)
    limits = [getattr(config, "max_position_embeddings", None)]
    for rope in _ropes(config):
        name = _LENGTH_DEPENDENT_ROPE.get(rope.get("rope_type", ""))
        if name is not None:
            limits.append(rope.get(name) or getattr(config, name, None))
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min(known, default=None)


def expected_windows(model_config: Any, layers: int) -> list[int | None]:
    """Return the sliding window that the configuration gives each layer; None is none."""
    config = text_config(model_config)
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is None:
        return [window] * layers
    return [window if kind == "sliding_attention" else None for kind in types]


def _ropes(config: Any) -> Iterator[dict[str, Any]]:
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in parameters:
        yield parameters
    else:  # one set for each type of layer
        yield from (value for value in parameters.values() if isinstance(value, dict))

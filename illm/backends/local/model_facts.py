"""What a model's files say of how to run it: number format, context, ends of an answer, sampling."""

from pathlib import Path
from typing import Any, Literal

from illm.backends.local.sources import read_json
from illm.core.requests import Sampling

DType = Literal["bfloat16", "float16", "float32"]

# Fields of generation_config.json that are ours as well.
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "min_p", "typical_p")
_UNKNOWN_CONTEXT = 2048


def pick_dtype(directory: Path, device: str, wanted: DType | None) -> Any:
    """Return the torch dtype to load with: what was asked for, else what the files hold if the device is fast at it."""
    import torch

    if wanted is not None:
        return getattr(torch, wanted)
    config = read_json(directory / "config.json")
    held = config.get("dtype") or config.get("torch_dtype")
    accelerated = device.partition(":")[0] == "cuda"
    if held == "bfloat16" and (accelerated or _cpu_has_bf16()):
        return torch.bfloat16
    return torch.float16 if held == "float16" and accelerated else torch.float32


def context_length(config: Any, tokenizer: Any) -> int:
    """Return how many tokens a model takes, or a cautious guess where nothing says."""
    known = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not known:
        known = min(int(tokenizer.model_max_length), 1 << 30)
        known = known if known < 1 << 30 else _UNKNOWN_CONTEXT  # the tokenizer's own "no idea" is 1e30
    return int(known)


def eos_ids(generation: Any, tokenizer: Any) -> frozenset[int]:
    """Return every id that ends an answer: the generation config's (one or a list) and the tokenizer's."""
    named = getattr(generation, "eos_token_id", None)
    ids = [named] if named is None or isinstance(named, int) else list(named)
    return frozenset(int(token) for token in (*ids, tokenizer.eos_token_id) if token is not None and token >= 0)


def sampling_defaults(generation: dict[str, Any]) -> Sampling:
    """Return what generation_config.json asks for.

    Only what the file itself says, and only where it asks for sampling: the library's own defaults (`top_k` 50) are
    nobody's wish.
    """
    if generation.get("do_sample") is not True:
        return Sampling()
    return Sampling(**{name: generation[name] for name in _SAMPLING if generation.get(name) is not None})


def _cpu_has_bf16() -> bool:
    import torch

    # Private names: where they are gone, float32 is slower and never wrong.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)

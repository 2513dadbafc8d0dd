"""About how much memory a model takes, read off its files before it is loaded, without torch.

Weights as large as they lie on the disk, or as they become in another number format; and keys and values for as many
tokens as the engine will take.  Nothing is known of a model that has yet to be downloaded: it counts when it is here.
"""

from pathlib import Path
from typing import Any

from illm.backends.local.sources import Source, read_json, resolve_named
from illm.config import Config
from illm.errors import GatewayError

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_UNPACKED = 4
"""Times the size of a GGUF file that its weights may take as bfloat16: most hold four to five bits of each."""

_GENERATING = ("text", "vision")
_ENCODING = ("embedding", "rerank")

_MODEST = 2 << 30
_UNKNOWN_CONTEXT = 8192


def footprint(source: Source, config: Config) -> int:
    """Return about how many bytes a model will take; 0 where nothing is known.

    Args:
        source: the model.
        config: how it will be loaded.
    """
    directory = source.directory or _fetched(source)
    if directory is None:
        gguf = source.gguf
        return _UNPACKED * gguf.stat().st_size if gguf is not None and gguf.is_file() else 0
    described = read_json(directory / "config.json")
    held = _held(described)
    loaded = _loaded(held, _wanted(source, config), config)
    weights = _weights(directory) * _BYTES[loaded] // _BYTES[held]
    if source.kind not in _GENERATING:
        return weights
    if config.quantize == "int8":  # beside the exact weights, which many rows and the embedding still want
        weights += weights // _BYTES[loaded] + _scanned_head(described, loaded)
    return weights + _kv(described, _BYTES[loaded], config)


def _fetched(source: Source) -> Path | None:
    if source.hub is None:
        return None
    try:
        return resolve_named(source.hub, source.kind).directory
    except GatewayError:
        return None


def _weights(directory: Path) -> int:
    for ending in ("*.safetensors", "*.bin"):
        if sizes := [file.stat().st_size for file in directory.glob(ending)]:
            return sum(sizes)
    return 0


def _held(described: dict[str, Any]) -> str:
    said = described.get("dtype") or described.get("torch_dtype")
    return said if said in _BYTES else "float32"


def _wanted(source: Source, config: Config) -> str:
    if source.kind in _ENCODING:
        return config.embedding_dtype
    return "auto" if source.kind == "audio" else config.dtype


def _loaded(held: str, wanted: str, config: Config) -> str:
    if wanted != "auto":
        return wanted
    return "float32" if held == "float16" and config.device == "cpu" else held


def _kv(described: dict[str, Any], size: int, config: Config) -> int:
    """Return the bytes of as many keys and values as the engine takes when nobody says otherwise."""
    text = described.get("text_config") or described
    layers, heads, width = (
        _number(text, *names)
        for names in (
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("hidden_size", "n_embd"),
        )
    )
    each = 2 * size * layers * _number(text, "num_key_value_heads", default=heads)
    each *= _number(text, "head_dim", default=width // max(heads, 1))
    if not each:
        return 0
    context = _number(text, "max_position_embeddings", "n_positions", default=_UNKNOWN_CONTEXT)
    return each * (config.kv_tokens or min(max(_MODEST // each, context), context * config.max_sequences))


def _scanned_head(described: dict[str, Any], loaded: str) -> int:
    """Return the bytes of a head in four bits, a scale and a zero for each 128 weights included."""
    text = described.get("text_config") or described
    head = _number(text, "vocab_size") * _number(text, "hidden_size", "n_embd")
    return (head // 2 + head // 32) * (loaded == "bfloat16")


def _number(described: dict[str, Any], *names: str, default: int = 0) -> int:
    return next((value for name in names if isinstance(value := described.get(name), int)), default)

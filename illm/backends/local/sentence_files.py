"""What sentence-transformers' files say about turning token states into one vector.  JSON only, no torch.

A model directory may hold modules.json, a pipeline: a transformer, a pooling step, then perhaps dense layers and a
normalisation.  A pipeline that we would run differently from its author is refused.  Without these files there is
nothing to follow, and the choice is mean pooling and unit length, the commonest of all.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from illm.backends.local.sources import read_json
from illm.errors import GatewayError, Kind

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Pooling modes; several are concatenated in this order."""

_OLD_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}

_TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)


@dataclass(frozen=True, slots=True)
class DenseFiles:
    """A dense layer: its directory and the last part of its activation's class name (`Tanh`, `Identity`, ...)."""

    directory: Path
    activation: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make sentence vectors.

    Args:
        transformer: the directory with the model and its tokenizer.
        modes: pooling modes, concatenated.
        dense: layers after pooling.
        normalise: whether vectors get unit length.
        limit: the longest input in tokens, where the files say.
        lower: whether text is lower-cased first.
        prefix: text put before every input.
        prompts: other texts that may be put there instead, by name.
    """

    transformer: Path
    modes: tuple[str, ...] = ("mean",)
    dense: tuple[DenseFiles, ...] = ()
    normalise: bool = True
    limit: int | None = None
    lower: bool = False
    prefix: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)


def read_recipe(directory: Path, served: str) -> Recipe:
    """Return the recipe of the model in `directory`.

    Raises:
        GatewayError: `MODEL_LOAD_FAILED` for a pipeline that is broken or has a step we do not know.
    """
    try:
        steps = json.loads((directory / "modules.json").read_bytes())
    except FileNotFoundError:
        return Recipe(directory)
    except (OSError, ValueError) as error:
        raise _refused(served, "its modules.json cannot be read") from error
    try:
        pipeline = [(str(step["type"]).rpartition(".")[2], _inside(directory, str(step["path"]))) for step in steps]
    except (TypeError, KeyError, ValueError) as error:
        raise _refused(served, "its modules.json is not a list of modules") from error
    return _recipe(directory, pipeline, served)


def _recipe(directory: Path, pipeline: list[tuple[str, Path]], served: str) -> Recipe:
    names = [name for name, _ in pipeline if name != "Dropout"]  # does nothing outside training
    tail = names[2:-1] if names[-1:] == ["Normalize"] else names[2:]
    if names[:2] != ["Transformer", "Pooling"] or any(name != "Dense" for name in tail):
        raise _refused(served, f"its pipeline {' > '.join(names)} is not supported")
    transformer, pooling = pipeline[0][1], read_json(dict(pipeline)["Pooling"] / "config.json")
    settings = next((found for name in _TRANSFORMER_FILES if (found := read_json(transformer / name))), {})
    said = read_json(directory / "config_sentence_transformers.json")
    prefix = _prefix(said)
    pools_prompts = pooling.get("include_prompt") is not False
    if prefix and not pools_prompts:
        raise _refused(served, "it leaves its prompt out of the pooling, which is not supported")
    limit = settings.get("max_seq_length")
    return Recipe(
        transformer,
        modes=_modes(pooling, served),
        dense=tuple(_dense(path, served) for name, path in pipeline if name == "Dense"),
        normalise=names[-1] == "Normalize",
        limit=limit if isinstance(limit, int) and limit > 0 else None,
        lower=settings.get("do_lower_case") is True,
        prefix=prefix,
        prompts=_prompts(said) if pools_prompts else {},
    )


def _modes(pooling: dict[str, Any], served: str) -> tuple[str, ...]:
    named = pooling.get("pooling_mode")
    if named is None:
        return tuple(mode for mode in MODES if pooling.get(_OLD_KEYS[mode])) or ("mean",)
    modes = (named,) if isinstance(named, str) else tuple(named)
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise _refused(served, f"its pooling {', '.join(map(str, unknown))} is not supported")
    return modes


def _dense(path: Path, served: str) -> DenseFiles:
    config = read_json(path / "config.json")
    ends = {config.get("module_input_name"), config.get("module_output_name")} - {None, "sentence_embedding"}
    if ends or config.get("use_residual"):
        raise _refused(served, "it has a dense layer of a kind that is not supported")
    return DenseFiles(path, str(config.get("activation_function", "Tanh")).rpartition(".")[2])


def _prefix(config: dict[str, Any]) -> str:
    return _prompts(config).get(str(config.get("default_prompt_name")), "")


def _prompts(config: dict[str, Any]) -> dict[str, str]:
    prompts = config.get("prompts")
    return {name: text for name, text in prompts.items() if isinstance(text, str)} if isinstance(prompts, dict) else {}


def _inside(directory: Path, path: str) -> Path:
    """The files of a model do not get to name files elsewhere."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise ValueError(path)
    return directory / parts


def _refused(served: str, why: str) -> GatewayError:
    return GatewayError(Kind.MODEL_LOAD_FAILED, f"The embedding model '{served}' cannot be loaded: {why}.")

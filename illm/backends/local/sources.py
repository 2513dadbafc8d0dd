"""Where a local model comes from: a name goes in, a `Source` comes out.

Two kinds of names, with different rights.  The operator's (`--model`) may be `demo`, a directory, a `.gguf` file or a
hub id.  A request's may be a hub id and nothing else: it never becomes a path, and its form is checked before anything
is touched.

Resolving is quick and needs neither network nor torch; what takes long (downloading, converting) is `fetch`, which the
thread that loads the model calls.
"""

import json
import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from illm.backends.local import demo, gguf_files
from illm.backends.local.conversion import Progress, converted
from illm.errors import GatewayError, Kind

ModelKind = Literal["text", "vision", "embedding", "rerank", "audio"]
FoundKind = Literal["text", "vision", "embedding", "rerank", "audio", "other"]

WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
CONVERTED = "model.bin"
"""Weights in CTranslate2's own format: numbers, not a pickle."""

DEMO_EMBEDDER = "all-MiniLM-L6-v2"
DEMO_LISTENER = "whisper-tiny.en"

# Pickles (*.bin, *.pt) and code (*.py) are left out by not being named.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_UNWANTED = ["onnx/*", "openvino/*", "original/*", "*.bin", "*.py"]

# The hub's own rule: parts begin and end with a letter, digit or underscore, and neither `..` nor `--` occurs.  The
# latter stands for the slash in the cache's folder names: `org--name` would find `org/name` past any allow-list.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"{_PART}(?:/{_PART})?")
_SHOWN = 96
_NOT_IN_HUB_ID = ("..", "--")

# A decoder's `...Model` without a head says nothing about pooling, so only encoders count as embedders by themselves.
# fmt: off
_ENCODERS = frozenset((
    "albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
    "eurobert", "flaubert", "layoutlm", "mobilebert", "modernbert", "mpnet", "nomic_bert", "nystromformer",
    "rembert", "roberta", "roberta-prelayernorm", "roformer", "squeezebert", "xlm", "xlm-roberta", "xlm-roberta-xl",
    "xmod",
))
# fmt: on
_GENERATING = ("ForCausalLM", "LMHeadModel")
_CONDITIONAL = "ForConditionalGeneration"  # on text, images or sound: what else the configuration has says which
_RANKING = "ForSequenceClassification"
_CLASSIFYING = ("Classification", "QuestionAnswering", "MultipleChoice")


@dataclass(frozen=True, slots=True)
class Source:
    """One model and where it is.

    Args:
        served: the id clients use.
        directory: a safetensors directory; `None` until `fetch` has downloaded or converted it.
        kind: what it is for.
        gguf: the `.gguf` file it has to be converted from; `demo.PACKAGED` for the packaged one.
        hub: the hub id it has to be downloaded from.
        pickles: whether `pytorch_model.bin` will do where there are no safetensors.  Only for what the operator named
            (the old default models have nothing else), and read with torch's `weights_only`, which runs no code.
    """

    served: str
    directory: Path | None
    kind: ModelKind
    gguf: Path | None = None
    hub: str | None = None
    pickles: bool = False


def resolve_named(name: str, kind: ModelKind) -> Source:
    """Find the model an operator named at start.  A directory called like a hub id comes before the hub.

    Args:
        name: `demo`, a directory (with safetensors, pickles or one `.gguf` file), a `.gguf` file or a hub id.
        kind: what the operator wants it for.

    Raises:
        GatewayError: `MODEL_NOT_FOUND` where nothing of that name can be had, with what to do about it.
    """
    if name == "demo":
        if kind == "embedding":
            return Source(DEMO_EMBEDDER, demo.embedder_directory(), kind)
        if kind == "audio":
            return Source(DEMO_LISTENER, demo.listener_directory(), kind)
        return Source("demo", None, kind, gguf=demo.PACKAGED)
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return Source(path.stem, None, kind, gguf=path.resolve())
    if path.is_dir():
        path = path.resolve()
        if not has_weights(path, pickles=True) and (file := gguf_files.in_directory(path)) is not None:
            return Source(path.name, None, kind, gguf=file)
        return Source(path.name, path, kind, pickles=True)
    if not is_hub_id(name):
        raise GatewayError(Kind.MODEL_NOT_FOUND, f"'{Path(name).name}' is neither a file or directory nor a hub id.")
    return from_hub(name, kind, download=True, pickles=True)


def resolve_requested(name: str, kind: ModelKind = "text", *, download: bool = True) -> Source:
    """Find the model a request named: a hub id, never a path.

    Args:
        name: what the client sent; nothing about it is trusted.
        kind: what the client wants it for; where the files are already here, the answer's `kind` is what *they* say.
        download: whether a model that is not in the hub cache may be downloaded (by `fetch`, later).

    Raises:
        GatewayError: `MODEL_NOT_FOUND`, whatever the reason; `CAPABILITY` for a model that makes neither text nor
            embeddings.
    """
    if not is_hub_id(name):
        raise GatewayError(Kind.MODEL_NOT_FOUND, f"The model {_shown(name)} does not exist.", param="model")
    try:
        source = from_hub(name, kind, download=download)
    except GatewayError as error:
        raise GatewayError(error.kind, f"The model '{name}' does not exist.", param="model") from error
    if source.directory is None:
        return source
    found = kind_in(source.directory)
    if found == "other":
        raise GatewayError(Kind.CAPABILITY, f"The model '{name}' makes neither text nor embeddings.", param="model")
    return replace(source, kind=found)


def fetch(source: Source, progress: Progress) -> Source:
    """Return the source with its directory filled: downloaded or converted if it has to be.  Slow; uses torch.

    Raises:
        GatewayError: `MODEL_NOT_FOUND` where the hub does not have it, `MODEL_LOAD_FAILED` where it cannot be had.
    """
    if source.directory is not None:
        return source
    if source.gguf is not None:
        return replace(source, directory=converted(source.gguf, progress))
    if source.hub is None:
        raise GatewayError(Kind.MODEL_LOAD_FAILED, f"The model '{source.served}' has no files.")
    return replace(source, directory=_download(source.hub, progress, pickles=source.pickles, kind=source.kind))


def kind_of(config: dict[str, Any], *, sentence_files: bool = False) -> FoundKind:
    """Say what a model is for.

    Args:
        config: its config.json.
        sentence_files: whether sentence-transformers' modules.json lies beside it; then it embeds, whatever it is.
    """
    names = [name for name in config.get("architectures") or [] if isinstance(name, str)]
    if _ranks(config, names):
        return "rerank"
    if sentence_files:
        return "embedding"
    if config.get("model_type") == "whisper":
        return "audio"
    if any(name.endswith(_GENERATING) for name in names):
        return "text"
    if any(name.endswith(_CONDITIONAL) for name in names) and "vision_config" in config:
        return "vision"
    if config.get("model_type") not in _ENCODERS or config.get("is_decoder"):
        return "other"
    return "other" if any(name.endswith(_CLASSIFYING) for name in names) else "embedding"


def _ranks(config: dict[str, Any], names: list[str]) -> bool:
    """Whether it is a cross-encoder: a classifier of one label, which is then a degree of relevance."""
    labels = config.get("id2label")
    one = config.get("num_labels") == 1 or (isinstance(labels, dict) and len(labels) == 1)
    return one and any(name.endswith(_RANKING) for name in names)


def kind_in(directory: Path) -> FoundKind:
    """Say what the model in `directory` is for; `other` where its files do not say or cannot be read."""
    if is_converted(directory):
        return "audio"
    config = read_json(directory / "config.json")
    return kind_of(config, sentence_files=(directory / "modules.json").is_file()) if config else "other"


def is_converted(directory: Path) -> bool:
    """Whether a Whisper model lies there that was converted for CTranslate2."""
    return (directory / CONVERTED).is_file() and any(directory.glob("vocabulary.*"))


def has_weights(directory: Path, *, pickles: bool = False) -> bool:
    """Whether every weights file that the model needs is there: safetensors, or pickles where those will do."""
    return is_converted(directory) or _complete(directory, WEIGHTS) or (pickles and _complete(directory, PICKLED))


def _complete(directory: Path, weights: str) -> bool:
    if (directory / weights).is_file():
        return True
    shards = read_json(directory / f"{weights}.index.json").get("weight_map")
    return isinstance(shards, dict) and all((directory / str(name)).is_file() for name in set(shards.values()))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a hub id (`name` or `org/name`) and could not be read as a path."""
    plain = not name.endswith(".git") and not any(part in name for part in _NOT_IN_HUB_ID)
    return plain and _HUB_ID.fullmatch(name) is not None


def from_hub(name: str, kind: ModelKind, *, download: bool, pickles: bool = False) -> Source:
    """Find a model by its hub id: in the hub's cache, or else to be downloaded by `fetch`.

    Raises:
        GatewayError: `MODEL_NOT_FOUND` where it is not in the cache and cannot be downloaded.
    """
    if find_spec("huggingface_hub") is None:
        raise GatewayError(
            Kind.MODEL_NOT_FOUND, f"'{name}' would come from the hub, which needs the extra: pip install 'illm[local]'"
        )
    from huggingface_hub import constants, try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", cache_dir=constants.HF_HUB_CACHE)
    if isinstance(config, str) and has_weights(Path(config).parent, pickles=pickles):
        return Source(name, Path(config).parent, kind, hub=name, pickles=pickles)
    if pickles and (file := gguf_files.in_cache(name)) is not None:
        return Source(name, None, kind, gguf=file, hub=name)
    if constants.is_offline_mode() or not download:
        raise GatewayError(Kind.MODEL_NOT_FOUND, _unreachable(name))
    return Source(name, None, kind, hub=name, pickles=pickles)


def _download(name: str, progress: Progress, *, pickles: bool, kind: ModelKind = "text") -> Path:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    progress(f"downloading {name}", None)
    try:
        directory = _snapshot(name, _WANTED, _UNWANTED)
        if kind == "audio" and not has_weights(directory):
            directory = _snapshot(name, [*_WANTED, CONVERTED], _UNWANTED[:-2])
        if pickles and not has_weights(directory):
            directory = _snapshot(name, [*_WANTED, "pytorch_model*.bin"], _UNWANTED[:-2])
        gguf = gguf_files.download(name) if pickles and not has_weights(directory, pickles=True) else None
    except (RepositoryNotFoundError, HFValidationError) as error:
        if isinstance(error, GatedRepoError):
            raise GatewayError(
                Kind.MODEL_LOAD_FAILED, f"'{name}' asks for its terms to be accepted on the hub, and for a token."
            ) from error
        raise GatewayError(Kind.MODEL_NOT_FOUND, f"The hub has no model '{name}'.", param="model") from error
    except Exception as error:  # whatever the client library's network raises: a few dozen types
        raise GatewayError(Kind.MODEL_LOAD_FAILED, _unreachable(name)) from error
    if gguf is not None:
        return converted(gguf, progress)
    if not has_weights(directory, pickles=pickles):
        raise GatewayError(Kind.MODEL_LOAD_FAILED, no_weights(name, pickles=pickles))
    return directory


def _snapshot(name: str, wanted: list[str], unwanted: list[str]) -> Path:
    from huggingface_hub import constants, snapshot_download

    return Path(
        snapshot_download(name, cache_dir=constants.HF_HUB_CACHE, allow_patterns=wanted, ignore_patterns=unwanted)
    )


def no_weights(name: str, *, pickles: bool) -> str:
    """Say that a model's weights are not there, and which would do."""
    return f"'{name}' has no safetensors weights" + ("." if pickles else "; pickled weights are not loaded.")


def _unreachable(name: str) -> str:
    return (
        f"'{name}': no such directory, the hub cannot be reached and the model is not in its cache; "
        "for a model that needs neither: pip install 'illm[demo]' and --model demo"
    )


def _shown(name: str) -> str:
    """A client's own words, short and printable enough to give back."""
    return repr(name if len(name) <= _SHOWN else name[:_SHOWN] + "…")

"""What can be wrong with the model that an operator named: found at start, without network or torch."""

from importlib.util import find_spec
from pathlib import Path

from illm.backends.local import demo, gguf_files
from illm.backends.local.sources import (
    PICKLED,
    WEIGHTS,
    ModelKind,
    from_hub,
    has_weights,
    is_converted,
    is_hub_id,
    kind_in,
    read_json,
)
from illm.errors import ConfigError, GatewayError

_LOCAL_MODULES = ("torch", "transformers")
_GGUF_MODULES = (*_LOCAL_MODULES, "gguf", "accelerate")
_SOUND_MODULES = ("av", "numpy")
_CONVERTED_MODULES = (*_SOUND_MODULES, "faster_whisper")
_DEMO_MODULES = {
    "text": (*_GGUF_MODULES, demo.PACKAGE),
    "embedding": (*_LOCAL_MODULES, demo.EMBEDDER_PACKAGE),
    "audio": (*_CONVERTED_MODULES, demo.LISTENER_PACKAGE),
}


def check_named(name: str, kind: ModelKind = "text") -> None:
    """Find the mistakes in an operator's choice that are cheap to find and certain, without network or torch.

    Raises:
        ConfigError: with a sentence that says what to do.
    """
    if not name.strip():
        raise ConfigError("the model name is empty")
    path = Path(name).expanduser()
    if name == "demo":
        _need(_DEMO_MODULES[kind], "audio" if kind == "audio" else "demo", "the packaged demo model")
    elif kind == "audio":
        _check_listener(name, path)
    elif path.suffix == ".gguf":
        _need(_GGUF_MODULES, "demo", "a GGUF file")
        _check_gguf(path)
    elif path.is_dir():
        _check_directory(path)
    elif not is_hub_id(name):
        raise ConfigError(f"{name!r}: no such file or directory, and not a hub id such as 'org/name'")
    else:
        _need(_LOCAL_MODULES, "local", "a model in this process")
        _check_hub(name, kind)


def _need(modules: tuple[str, ...], extra: str, purpose: str) -> None:
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ConfigError(f"{purpose} needs {', '.join(missing)}: pip install 'illm[{extra}]'")


def _check_hub(name: str, kind: ModelKind) -> None:
    try:
        from_hub(name, kind, download=True, pickles=True)
    except GatewayError as error:
        raise ConfigError(error.message) from error


def _check_listener(name: str, path: Path) -> None:
    if path.is_dir():
        converted_ = is_converted(path)
        _need(_CONVERTED_MODULES if converted_ else (*_SOUND_MODULES, *_LOCAL_MODULES), "audio", "a speech model")
        _check_directory(path)
        if kind_in(path) != "audio":
            raise ConfigError(f"{path}: not a Whisper model")
    elif not is_hub_id(name):
        raise ConfigError(f"{name!r}: no such directory, and not a hub id such as 'org/name'")
    else:
        _need(_SOUND_MODULES, "audio", "a speech model")
        _check_hub(name, "audio")


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise ConfigError(f"{path}: not a GGUF file")


def _check_directory(path: Path) -> None:
    try:
        file = None if has_weights(path, pickles=True) else gguf_files.in_directory(path.resolve())
    except GatewayError as error:
        raise ConfigError(error.message) from error
    if file is not None:
        _need(_GGUF_MODULES, "demo", "a GGUF file")
        return _check_gguf(file)
    _need(_LOCAL_MODULES, "local", "a model in this process")
    if not read_json(path / "config.json"):
        raise ConfigError(f"{path}: no config.json that could be read, so this is no model directory")
    if not has_weights(path, pickles=True):
        raise ConfigError(f"{path}: no weights: neither {WEIGHTS} nor {PICKLED} nor one whole .gguf file")
    return None

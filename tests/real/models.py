"""The packaged models, as files that a server takes."""

import sys
from pathlib import Path

from illm.backends.local import conversion, demo

NAME = "gemma"
"""What the servers call the language model."""
EMBEDDER = "minilm"
"""And the sentence embedder."""
TEMPLATE = Path(__file__).with_name("dialogue.jinja")
"""The language model is a base model without a template: a dialogue in plain words, which it has seen before."""


def text_directory() -> Path:
    """Return the language model as a safetensors directory, from the cache that ILLM itself loads it from."""
    return conversion.converted(demo.PACKAGED, _say)


def text_file() -> Path:
    """Return the language model as a GGUF file."""
    home = conversion.cache_root() / "real"
    home.mkdir(parents=True, exist_ok=True)
    path = home / f"{demo.digest()[:16]}.gguf"
    if not path.exists():
        partial = path.with_suffix(".partial")
        demo.assemble(partial)
        partial.replace(path)
    return path


def embedder_directory() -> Path:
    """Return the sentence embedder as a safetensors directory."""
    return demo.embedder_directory()


def _say(what: str, _: float | None) -> None:
    sys.stderr.write(f"{what}\n")

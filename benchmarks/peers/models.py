"""The packaged models, as the engines want them, and their tokenizer: both in the environment that has the packages."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.environments import REQUIREMENTS, Environment
from benchmarks.peers.illm import CHECKOUT

ENVIRONMENT = Environment(
    "illm-local",
    tuple(REQUIREMENTS / name for name in ("torch.txt", "illm.txt", "illm-fast.txt", "illm-local.txt")),
)
TEXT = "gemma"
"""What the servers are told to call the language model."""
EMBEDDER = "minilm"
"""And the sentence embedder."""
TEMPLATE = CHECKOUT / "tests" / "real" / "dialogue.jinja"

_FIND = """\
import json, sys
from tests.real import models
found = {"text": models.text_directory(), "file": models.text_file(), "embedder": models.embedder_directory()}
sys.stdout.write(json.dumps({name: str(path) for name, path in found.items()}))
"""
_COUNT = """\
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
texts = json.load(sys.stdin)
json.dump([len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts], sys.stdout)
"""


@dataclass(frozen=True)
class Models:
    """Where the models lie.

    Args:
        text: the language model as a safetensors directory.
        file: the same in GGUF, as it was packaged.
        embedder: the sentence embedder as a safetensors directory.
    """

    text: Path
    file: Path
    embedder: Path


@cache
def models() -> Models:
    """Return where they lie; the first time ever they are put together, which takes a minute.

    Raises:
        RuntimeError: the message has the last of what went wrong.
    """
    ENVIRONMENT.install()
    return Models(**{name: Path(path) for name, path in json.loads(_said(_FIND)).items()})


def count_tokens(texts: Sequence[str]) -> list[int]:
    """Return how many tokens of the language model each text has, without special ones."""
    counts: list[int] = json.loads(_said(_COUNT, str(models().text / "tokenizer.json"), told=json.dumps(texts)))
    return counts


def _said(program: str, *arguments: str, told: str = "") -> str:
    done = subprocess.run(
        [ENVIRONMENT.python, "-c", program, *arguments],
        input=told,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the packaged models cannot be used:\n{done.stderr[-4000:]}")
    return done.stdout

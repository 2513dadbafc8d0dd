"""The paced stand-in as a process of the suite: started, asked what it served, ended."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.processes import HOST, fetch, free_port, serving
from benchmarks.standins.pace import Pace

CHECKOUT = Path(__file__).parents[2]


class PacedProcess:
    """The paced stand-in in its own process.

    Args:
        url: where it answers.
        pid: its process.
    """

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid

    def configure(self, pace: Pace) -> None:
        """Set the pace, and count from zero."""
        self._ask("/_/configure", asdict(pace))

    def counts(self) -> dict[str, float]:
        """Return what it served since then: see `benchmarks.standins.pace.Counts`."""
        counts: dict[str, float] = self._ask("/_/counts", {})
        return counts

    def _ask(self, path: str, content: dict[str, Any]) -> Any:
        _, answer = fetch(self.url + path, body=json.dumps(content).encode())
        return json.loads(answer)


@contextmanager
def paced() -> Iterator[PacedProcess]:
    """Run the paced stand-in while the block lasts.

    Raises:
        RuntimeError: it did not start.
    """
    port = free_port()
    url = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "benchmarks.standins", str(port)]
    with serving("the paced stand-in", command, f"{url}/health", cwd=CHECKOUT) as server:
        yield PacedProcess(url, server.process.pid)

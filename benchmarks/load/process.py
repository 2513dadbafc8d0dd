"""The load generator as the suite sees it: a process that carries out one plan after the other."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.load.plan import Outcome, Plan


class Generator:
    """A load generator in a process of its own.

    Args:
        process: its pipes speak as `benchmarks.load.__main__` does.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid

    def perform(self, plan: Plan) -> Outcome:
        """Carry out a plan and return what came of it.

        Raises:
            RuntimeError: the process ended; what it said is on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(plan.as_json()), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise RuntimeError("the load generator is gone") from None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended in the middle of a plan")
        return Outcome(**json.loads(line))


@contextmanager
def generator() -> Iterator[Generator]:
    """Run a load generator while the block lasts."""
    command = [sys.executable, "-m", "benchmarks.load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Generator(process)
        finally:
            process.terminate()

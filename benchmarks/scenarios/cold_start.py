"""Cold start: from the process's start to the first answer of its own, and to the first that comes from upstream."""

import json
import subprocess
import time
from collections.abc import Sequence

from benchmarks.peers import illm
from benchmarks.processes import fetch
from benchmarks.rounds import rotated, say
from benchmarks.samples import Sample
from benchmarks.standins.nginx import nginx_fixed
from benchmarks.systems import System, Upstream

TITLE = "Cold start"

STARTS = "process start"
IMPORT = "import illm"
_LIMIT = 60.0
"""Seconds until the first answer is given up."""
_IMPORTS = 5
"""How often a round imports: one takes a moment only."""
_PROGRAM = "import time; began = time.perf_counter(); import illm; print(time.perf_counter() - began)"
_CHAT = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 16}


def run(systems: Sequence[System], rounds: int, quick: bool) -> list[Sample]:
    """Measure; see `benchmarks.scenarios`.

    Each system is started once before the clock runs, so that all files are in the page cache and compiled.
    """
    able = {system.name: system for system in systems if system.supports("cold_start")}
    samples = []
    with nginx_fixed() as fixed:
        upstream = Upstream(fixed.url, "openai", "bench")
        for system in able.values():
            start(system, upstream, 0)
        for number in range(rounds):
            if illm.FASTEST.name in able:
                samples.append(import_once(number))
            for name in rotated(list(able), number):
                samples.append(start(able[name], upstream, number))
                said = ", ".join(f"{metric} {value:.0f}" for metric, value in samples[-1].metrics.items())
                say(f"cold_start, round {number + 1}, {name}: {said}{samples[-1].faults or ''}")
    return samples


def start(system: System, upstream: Upstream, number: int) -> Sample:
    """Start a system and ask it one question.

    The clock runs from just before the process is made.  A system is asked whether it is there every few
    milliseconds, which is how fine these figures are.
    """
    metrics: dict[str, float] = {}
    faults: dict[str, int] = {}
    began = time.perf_counter()
    try:
        with system.running(upstream) as running:
            metrics["first_health_ms"] = 1e3 * (time.perf_counter() - began)
            status, body = fetch(
                f"{running.url}/v1/chat/completions",
                body=json.dumps({"model": running.model, **_CHAT}).encode(),
                headers=running.headers,
                timeout=_LIMIT,
            )
            metrics["first_answer_ms"] = 1e3 * (time.perf_counter() - began)
            if status != 200 or b'"content"' not in body:
                faults[f"status {status}"] = 1
    except (RuntimeError, OSError) as error:
        say(f"{system.name}: {error}")
        faults["did not start"] = 1
    return Sample("cold_start", STARTS, system.name, number, metrics, faults)


def import_once(number: int) -> Sample:
    """Time `import illm` in fresh interpreters; the interpreter's own start is not in it."""
    took = min(
        float(
            subprocess.run(
                [illm.FAST.python, "-c", _PROGRAM], env=illm.VARIABLES, capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(_IMPORTS)
    )
    return Sample("cold_start", IMPORT, illm.FASTEST.name, number, {"import_ms": 1e3 * took})

"""Memory: at rest, for each open stream, and whether it stays flat over many requests."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.footprint import Memory, family, memory
from benchmarks.held import held
from benchmarks.load.plan import Plan
from benchmarks.load.process import Generator, generator
from benchmarks.rounds import rotated, say
from benchmarks.samples import Sample
from benchmarks.standins.pace import Pace
from benchmarks.standins.process import PacedProcess, paced
from benchmarks.systems import Running, System, Upstream

TITLE = "Memory"

OPEN = (100, 1000)
REQUESTS = 100_000
QUICK = 5_000
_PARTS = 10
_PATIENCE = 90.0
"""Seconds for all the requests: a system that is too slow for them is measured over fewer, and says how many."""
_AT_ONCE = 64
_MOST_ROUNDS = 3
"""Memory hardly differs from round to round, and a round is long."""
_KB = 1e3
# One token at once and the next long after we have left.
_SILENT = Pace(tokens=2, rate=0.002)
_ANSWERING = Pace(tokens=1)


def run(systems: Sequence[System], rounds: int, quick: bool) -> list[Sample]:
    """Measure; see `benchmarks.scenarios`.  Every system is a new process in every round, and alone."""
    able = {system.name: system for system in systems if system.supports("memory")}
    samples: list[Sample] = []
    with paced() as stand_in, generator() as load:
        upstream = Upstream(stand_in.url, "openai", "bench")
        for number in range(min(rounds, _MOST_ROUNDS)):
            for name in rotated(list(able), number):
                for sample in one_life(able[name], number, upstream, stand_in, load, QUICK if quick else REQUESTS):
                    samples.append(sample)
                    said = ", ".join(f"{metric} {value:.3g}" for metric, value in sample.metrics.items())
                    say(f"memory, {sample.case}, round {number + 1}, {name}: {said} {sample.faults or ''}")
    return samples


def one_life(
    system: System, number: int, upstream: Upstream, stand_in: PacedProcess, load: Generator, requests: int
) -> Iterator[Sample]:
    """Measure one system from its start to its end; the arguments are `run`'s."""
    try:
        with system.running(upstream) as running:
            # What is imported on the first request belongs to rest, not to the first stream.
            stand_in.configure(_ANSWERING)
            load.perform(replace(_plan(running), requests=_AT_ONCE))
            rest = _held_by(running)
            yield Sample("memory", "at rest", system.name, number, {"pss_mb": rest.pss_mb, "rss_mb": rest.rss_mb})
            for count in OPEN:
                stand_in.configure(_SILENT)
                yield _streams(running, number, count, rest)
            stand_in.configure(_ANSWERING)
            yield _endurance(running, number, load, requests)
    except RuntimeError as error:
        say(f"{system.name}: {error}")
        yield Sample("memory", "at rest", system.name, number, {}, {"did not start": 1})


def _streams(running: Running, number: int, count: int, rest: Memory) -> Sample:
    with _holding(running, count) as spoke:
        now = _held_by(running)
    metrics = {
        "pss_mb": now.pss_mb,
        "rss_mb": now.rss_mb,
        "stream_kb": (now.pss_mb - rest.pss_mb) * 1e6 / _KB / count,
    }
    faults = {"silent streams": count - spoke} if spoke != count else {}
    return Sample("memory", f"{count:,} open streams", running.name, number, metrics, faults)


@contextmanager
def _holding(running: Running, count: int) -> Iterator[int]:
    try:
        with held(running, count) as spoke:
            yield spoke
    except OSError as error:
        raise RuntimeError(f"{count} streams could not be opened: {error}") from error


def _endurance(running: Running, number: int, load: Generator, requests: int) -> Sample:
    """Send all requests in parts; the first part is the warm-up, and what comes after it should be flat."""
    plan = replace(_plan(running), requests=requests // _PARTS, seconds=_PATIENCE / _PARTS, tokens=1)
    sizes: list[Memory] = []
    answered = 0
    faults: dict[str, int] = {}
    for part in range(_PARTS):
        outcome = load.perform(replace(plan, seed=part + 1))
        answered += outcome.answered
        for fault, often in outcome.faults.items():
            faults[fault] = faults.get(fault, 0) + often
        sizes.append(_held_by(running))
    metrics = {
        "requests": float(answered),
        "pss_mb": sizes[-1].pss_mb,
        "rss_mb": sizes[-1].rss_mb,
        "grown_mb": sizes[-1].pss_mb - sizes[0].pss_mb,
    }
    return Sample("memory", f"after {requests:,} requests", running.name, number, metrics, faults)


def _plan(running: Running) -> Plan:
    headers = dict(running.headers)
    return Plan(running.url, running.model, headers, connections=_AT_ONCE, seconds=1e6, warm_up=0)


def _held_by(running: Running) -> Memory:
    # The processes of now: a system may have started some since.
    return memory(family(running.pids[0]))

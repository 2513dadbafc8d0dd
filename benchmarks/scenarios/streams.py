"""Streamed chat: what a gateway adds to the first token and to every other, and how many streams it carries."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.load.plan import Plan
from benchmarks.rounds import RAMP, Case, run_cases
from benchmarks.samples import Sample
from benchmarks.standins.pace import Pace
from benchmarks.standins.process import paced
from benchmarks.standins.witness import Paced
from benchmarks.systems import System, Upstream

TITLE = "Streamed chat"

FIRST_DELAY = 0.02
"""Seconds until the first token: no gateway sees an answer while it is still sending the request."""

STEPS = (250, 500, 1000, 2000, 4000)
"""Streams of 50 tokens a second each, one step after the other."""


def streams(name: str, count: int, rate: float, seconds: float, *, repeat: int = 1, in_step: bool = False) -> Case:
    """Return a case of so many streams at once.

    Args:
        name: see `Case`.
        count: how many at once.
        rate: tokens a second of each.
        seconds: how long each speaks.
        repeat: how many streams follow each other on each connection.
        in_step: see `Pace`.
    """
    tokens = max(2, int(rate * seconds))
    plan = Plan(
        "",
        "",
        shape="stream",
        connections=count,
        seconds=1e6,
        requests=count * repeat,
        tokens=tokens,
        # Connections of a gateway to its upstream are there before the clock starts; and no thundering herd after.
        warm_up=1,
        stagger=min(1.0, count / 200),
        bodies=max(64, count),
        patience=20 + 2 * seconds * repeat,
    )
    return Case(name, plan, Pace(tokens=tokens, rate=rate, first_delay=FIRST_DELAY, in_step=in_step))


def cases(quick: bool) -> list[Case]:
    """Return all of them."""
    if quick:
        return [streams("10 streams of 50/s", 10, 50, 0.3)]
    return [
        streams("1 stream of 50/s", 1, 50, 0.2, repeat=15),
        streams("10 streams of 50/s", 10, 50, 0.4, repeat=6),
        streams("100 streams of 50/s", 100, 50, 3),
        streams("100 streams of 50/s, in step", 100, 50, 3, in_step=True),
        streams("1,000 streams of 10/s", 1000, 10, 4),
        *(replace(streams(f"{RAMP}{count:,} streams of 50/s", count, 50, 2), step=True) for count in STEPS),
    ]


def run(systems: Sequence[System], rounds: int, quick: bool) -> list[Sample]:
    """Measure; see `benchmarks.scenarios`."""
    with paced() as stand_in:
        upstream = Upstream(stand_in.url, "openai", "bench")
        return run_cases("streams", cases(quick), systems, rounds, upstream, Paced(stand_in))

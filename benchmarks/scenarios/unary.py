"""Non-streamed chat: what a gateway adds to one request at a time, and how many a second it passes on."""

from collections.abc import Sequence

from benchmarks.load.plan import Plan
from benchmarks.rounds import Case, run_cases
from benchmarks.samples import Sample
from benchmarks.standins.nginx import nginx_fixed
from benchmarks.standins.process import paced
from benchmarks.standins.witness import Fixed, Paced
from benchmarks.systems import System, Upstream

TITLE = "Non-streamed chat"

AT_ONCE = (1, 16, 64, 256)


def cases(quick: bool) -> list[Case]:
    """Return those whose upstream is nginx with its fixed answer."""
    seconds = 0.3 if quick else 2.0
    closed = [
        Case(f"{count} at once", Plan("", "", connections=count, seconds=seconds, tokens=0, bodies=512))
        for count in (AT_ONCE[:2] if quick else AT_ONCE)
    ]
    # As a crowd comes that does not wait for each other: how long it takes counts from when each was due.
    steady = Plan("", "", connections=256, rate=1000, seconds=seconds, tokens=0, patience=5, bodies=512)
    return closed if quick else [*closed, Case("1,000 a second", steady)]


def echoes(quick: bool) -> list[Case]:
    """Return those whose upstream repeats a part of each request, so that no answer can go to another's client."""
    seconds = 0.3 if quick else 2.0
    return [Case("64 at once, each answer its own", Plan("", "", connections=64, seconds=seconds, bodies=4096))]


def run(systems: Sequence[System], rounds: int, quick: bool) -> list[Sample]:
    """Measure; see `benchmarks.scenarios`."""
    with nginx_fixed() as fixed:
        upstream = Upstream(fixed.url, "openai", "bench")
        samples = run_cases("unary", cases(quick), systems, rounds, upstream, Fixed(fixed))
    with paced() as stand_in:
        upstream = Upstream(stand_in.url, "openai", "bench")
        return samples + run_cases("unary", echoes(quick), systems, rounds, upstream, Paced(stand_in))

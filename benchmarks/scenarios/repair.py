"""Streams that may not be passed on as they are: reasoning under vLLM's own name, tool calls in pieces.

ILLM decodes and mends every chunk of them.  A gateway that relays them as they came does less, and is no worse a
measure of what the repair costs.
"""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.rounds import Case, run_cases
from benchmarks.samples import Sample
from benchmarks.scenarios.streams import streams
from benchmarks.standins.process import paced
from benchmarks.standins.witness import Paced
from benchmarks.systems import System, Upstream

TITLE = "Tool calls and reasoning, mended"


def cases(quick: bool) -> list[Case]:
    """Return all of them."""
    plain = [streams("10 streams of 50/s", 10, 50, 0.3)]
    if not quick:
        plain = [
            streams("1 stream of 50/s", 1, 50, 0.3, repeat=10),
            streams("100 streams of 50/s", 100, 50, 3),
        ]
    return [replace(case, plan=replace(case.plan, shape="tools")) for case in plain]


def run(systems: Sequence[System], rounds: int, quick: bool) -> list[Sample]:
    """Measure; see `benchmarks.scenarios`."""
    with paced() as stand_in:
        upstream = Upstream(stand_in.url, "openai", "bench")
        return run_cases("repair", cases(quick), systems, rounds, upstream, Paced(stand_in))

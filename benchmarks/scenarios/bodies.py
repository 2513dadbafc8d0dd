"""Large requests: a prompt of 100 kB, an image of 1 MB."""

from collections.abc import Sequence

from benchmarks.load.plan import Plan, Shape
from benchmarks.rounds import Case, run_cases
from benchmarks.samples import Sample
from benchmarks.standins.process import paced
from benchmarks.standins.witness import Paced
from benchmarks.systems import System, Upstream

TITLE = "Large requests"

SHAPES: tuple[tuple[Shape, str], ...] = (("prompt", "prompt of 100 kB"), ("image", "image of 1 MB"))


def cases(quick: bool) -> list[Case]:
    """Return all of them."""
    seconds = 0.3 if quick else 2.0
    return [
        Case(f"{name}, {count} at once", Plan("", "", shape=shape, connections=count, seconds=seconds))
        for shape, name in SHAPES
        for count in ((1,) if quick else (1, 8))
    ]


def run(systems: Sequence[System], rounds: int, quick: bool) -> list[Sample]:
    """Measure; see `benchmarks.scenarios`."""
    with paced() as stand_in:
        upstream = Upstream(stand_in.url, "openai", "bench")
        return run_cases("bodies", cases(quick), systems, rounds, upstream, Paced(stand_in))

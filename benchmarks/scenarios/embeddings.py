"""Embeddings of 256 texts at once: a megabyte of decimal numbers comes back, or as base64, as OpenAI's client asks."""

from collections.abc import Sequence

from benchmarks.load.plan import Plan
from benchmarks.rounds import Case, run_cases
from benchmarks.samples import Sample
from benchmarks.standins.pace import Pace
from benchmarks.standins.process import paced
from benchmarks.standins.witness import Paced
from benchmarks.systems import System, Upstream

TITLE = "Embeddings of 256 texts"


def cases(quick: bool) -> list[Case]:
    """Return all of them."""
    seconds = 0.3 if quick else 2.0
    pace = Pace(inputs=256, dimensions=384)
    return [
        Case("as numbers", Plan("", "", shape="embeddings", tokens=0, seconds=seconds), pace),
        Case("as base64", Plan("", "", shape="embeddings-base64", tokens=0, seconds=seconds), pace),
    ]


def run(systems: Sequence[System], rounds: int, quick: bool) -> list[Sample]:
    """Measure; see `benchmarks.scenarios`."""
    with paced() as stand_in:
        upstream = Upstream(stand_in.url, "openai", "bench")
        return run_cases("embeddings", cases(quick), systems, rounds, upstream, Paced(stand_in))

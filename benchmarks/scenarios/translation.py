"""An Ollama server's words become OpenAI's.  Beside it, the same asked directly, in Ollama's own words."""

from collections.abc import Sequence

from benchmarks.load.plan import Plan
from benchmarks.rounds import Case, run_cases
from benchmarks.samples import Sample
from benchmarks.scenarios.streams import streams
from benchmarks.standins.process import paced
from benchmarks.standins.witness import Paced
from benchmarks.systems import System, Upstream

TITLE = "Ollama, translated"


def cases(quick: bool) -> list[Case]:
    """Return all of them."""
    if quick:
        return [streams("10 streams of 50/s", 10, 50, 0.3)]
    return [
        Case("1 at once, not streamed", Plan("", "", seconds=2)),
        Case("64 at once, not streamed", Plan("", "", connections=64, seconds=2)),
        streams("1 stream of 50/s", 1, 50, 0.2, repeat=15),
        streams("100 streams of 50/s", 100, 50, 3),
    ]


def run(systems: Sequence[System], rounds: int, quick: bool) -> list[Sample]:
    """Measure; see `benchmarks.scenarios`."""
    with paced() as stand_in:
        upstream = Upstream(stand_in.url, "ollama", "bench")
        return run_cases("translation", cases(quick), systems, rounds, upstream, Paced(stand_in))

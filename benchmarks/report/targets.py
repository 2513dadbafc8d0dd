"""What ILLM wants to reach, and whether a run has shown it: met, or missed by how much, by medians over the rounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report.comparison import Figure, Spread, added, figures, plain
from benchmarks.report.document import Document
from benchmarks.samples import Sample
from benchmarks.statistics import median

RUST = ("sglang-router", "smg")
NATIVE = (*RUST, "envoy")


@dataclass(frozen=True)
class Target:
    """One line of the table.

    Args:
        words: what is measured, with its unit.
        scenario, case: where.
        figure: of a sample; see `Figure`.
        peers: peer → how many times its figure ILLM's may be (`most`), or has to be.
        most: whether the figure has to stay below, else above.
        limit: what it has to stay below (or above) by itself, in the figure's unit.
        where: only rounds count in which this system's own figure is below that value.
    """

    words: str
    scenario: str
    case: str
    figure: Figure
    peers: Mapping[str, float] | None = None
    most: bool = True
    limit: float | None = None
    where: tuple[str, float] | None = None


def _below(*names: str) -> dict[str, float]:
    return dict.fromkeys(names, 1.0)


_ONE, _MANY = "1 at once", "64 at once"
_RATE = plain("requests_per_s")
_TTFT = added("ttft_path_p50_us")

TARGETS = (
    Target(
        "added p50, one at a time, µs",
        "unary",
        _ONE,
        added("total_p50_us"),
        {**_below(*NATIVE), "litellm": 1 / 50},
    ),
    Target("requests/s, 64 at once", "unary", _MANY, _RATE, {**_below(*RUST), "litellm": 50.0}, most=False),
    Target(
        "added p99, one at a time, where nginx's is below 400, µs",
        "unary",
        _ONE,
        added("total_p99_us"),
        limit=1000,
        where=("nginx", 400),
    ),
    *(
        Target(f"added TTFT p50, {case}, µs", "streams", case, _TTFT, _below(*RUST), limit=300)
        for case in ("1 stream of 50/s", "10 streams of 50/s", "100 streams of 50/s")
    ),
    Target(
        "added delay a token p99, 100 streams, µs",
        "streams",
        "100 streams of 50/s",
        added("delay_p99_us"),
        _below(*RUST),
        limit=1000,
    ),
    Target(
        "longest delay, 1,000 streams of 10/s, ms",
        "streams",
        "1,000 streams of 10/s",
        plain("delay_max_us", 1e-3),
        limit=100,
    ),
    Target("memory with 1,000 open streams, MB", "memory", "1,000 open streams", plain("pss_mb"), limit=200),
    Target("memory at rest, MB", "memory", "at rest", plain("pss_mb"), limit=60),
    Target("memory grown over 100,000 requests, MB", "memory", "after 100,000 requests", plain("grown_mb"), limit=2),
    Target("`import illm`, ms", "cold_start", "import illm", plain("import_ms"), limit=100),
    Target("start to first `/healthz`, ms", "cold_start", "process start", plain("first_health_ms"), limit=400),
)


def judge(document: Document, targets: Sequence[Target] = TARGETS) -> Iterator[str]:
    """Yield the lines of a Markdown table; nothing where no target was measured."""
    rows = [row for target in targets if (row := _row(document, target)) is not None]
    if rows:
        yield "| target | measured | |"
        yield "|---|---|---|"
        yield from rows


def _row(document: Document, target: Target) -> str | None:
    of_case = [s for s in document.samples if (s.scenario, s.case) == (target.scenario, target.case)]
    ours = _counted(of_case, document.reference, target)
    spread = Spread.of(list(ours.values()))
    if spread is None:
        return None
    misses = [*_beyond(target, spread.middle), *_behind(of_case, target, ours)]
    # A lost or late answer is a miss whatever the clock says.
    faulty = sum(not s.sound for s in of_case if s.system == document.reference)
    if faulty:
        misses.append(f"faults in {faulty} of its samples")
    said = f"{spread.middle:,.0f} ({spread.low:,.0f} to {spread.high:,.0f})"
    return f"| {target.words}: {_wanted(target)} | {said} | {'missed: ' + '; '.join(misses) if misses else 'met'} |"


def _wanted(target: Target) -> str:
    word = "below" if target.most else "above"
    parts = [f"{word} {target.limit:,.0f}"] if target.limit is not None else []
    for name, times in (target.peers or {}).items():
        parts.append(f"{word} {name}'s" if times == 1 else f"{word} {_times(times)} {name}'s")
    return ", ".join(parts)


def _times(times: float) -> str:
    return f"{times:,.0f} times" if times >= 1 else f"a {1 / times:,.0f}th of"


def _counted(samples: Sequence[Sample], system: str, target: Target) -> dict[int, float]:
    found = figures(samples, system, target.figure)
    if target.where is None:
        return found
    name, below = target.where
    quiet = figures(samples, name, target.figure)
    return {number: value for number, value in found.items() if quiet.get(number, below) < below}


def _beyond(target: Target, middle: float) -> Iterator[str]:
    if target.limit is not None and (middle > target.limit) is target.most:
        yield f"{middle / target.limit:.2f} of the limit"


def _behind(samples: Sequence[Sample], target: Target, ours: Mapping[int, float]) -> Iterator[str]:
    """Yield the peers that the medians of the rounds' ratios say are not reached."""
    for name, times in (target.peers or {}).items():
        theirs = figures(samples, name, target.figure)
        ratios = [value / theirs[number] for number, value in ours.items() if theirs.get(number, 0) > 0]
        if not ratios:
            yield f"{name} was not measured"
        elif (median(ratios) > times) is target.most:
            yield f"{median(ratios):.2f} times {name}'s"

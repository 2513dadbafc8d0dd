"""Samples as figures to compare: differences and ratios within a round, median and spread over the rounds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.rounds import BASELINE, RAMP, kept_pace
from benchmarks.samples import Sample
from benchmarks.statistics import median

Figure = Callable[[Sample, Sample | None], float | None]
"""(sample, the same round's with no system between) → the figure; None where one is missing."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        title: with its unit.
        figure: what it shows.
        digits: after the decimal point.
        compared: whether it is also shown as a ratio to the reference's in the same round.
    """

    title: str
    figure: Figure
    digits: int = 0
    compared: bool = False


@dataclass(frozen=True)
class Spread:
    """One figure over the rounds.

    Args:
        middle: the median.
        low: the least.
        high: the greatest.
        rounds: how many there were.
    """

    middle: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """Return the spread of values; None of none."""
        return cls(median(values), min(values), max(values), len(values)) if values else None


def plain(metric: str, scale: float = 1.0) -> Figure:
    """Return a figure: a metric as it is, times `scale`."""

    def figure(sample: Sample, baseline: Sample | None) -> float | None:
        value = sample.metrics.get(metric)
        return None if value is None else value * scale

    return figure


def added(metric: str, scale: float = 1.0) -> Figure:
    """Return a figure: what a metric is more than with nothing between client and upstream, in the same round."""

    def figure(sample: Sample, baseline: Sample | None) -> float | None:
        if baseline is None or metric not in sample.metrics or metric not in baseline.metrics:
            return None
        return (sample.metrics[metric] - baseline.metrics[metric]) * scale

    return figure


UNARY = (
    Column("added p50, µs", added("total_p50_us"), compared=True),
    Column("added p99, µs", added("total_p99_us")),
    Column("p50, µs", plain("total_p50_us")),
    Column("requests/s", plain("requests_per_s"), compared=True),
    Column("its CPU a request, µs", plain("system_cpu_us")),
)

STREAMED = (
    Column("added TTFT p50, µs", added("ttft_path_p50_us"), compared=True),
    Column("added TTFT p99, µs", added("ttft_path_p99_us")),
    Column("added delay a token p50, µs", added("delay_p50_us"), compared=True),
    Column("added delay a token p99, µs", added("delay_p99_us"), compared=True),
    Column("longest delay, ms", plain("delay_max_us", 1e-3), 1),
    Column("tokens/s", plain("tokens_per_s")),
    Column("its CPU a token, µs", plain("system_cpu_us"), 1),
)


def columns(samples: Sequence[Sample]) -> Sequence[Column]:
    """Return the columns for the samples of one case."""
    names = {name for sample in samples for name in sample.metrics}
    if "delay_p50_us" in names:
        return STREAMED
    if "total_p50_us" in names:
        return UNARY
    return [Column(name, plain(name), 1) for name in dict.fromkeys(n for sample in samples for n in sample.metrics)]


def by_round(samples: Iterable[Sample]) -> Mapping[tuple[str, int], Sample]:
    """Return the sound samples of one case by system and round."""
    return {(sample.system, sample.round): sample for sample in samples if sample.sound}


def figures(samples: Sequence[Sample], system: str, figure: Figure) -> dict[int, float]:
    """Return a figure of one system by round, from the sound samples of one case."""
    sound = by_round(samples)
    found = {
        number: figure(sample, sound.get((BASELINE, number)))
        for (name, number), sample in sound.items()
        if name == system
    }
    return {number: value for number, value in found.items() if value is not None}


def ratios(samples: Sequence[Sample], system: str, reference: str, figure: Figure) -> list[float]:
    """Return a figure's ratio to the reference's in every round that has both, and in which neither is below zero."""
    ours, theirs = figures(samples, system, figure), figures(samples, reference, figure)
    return [value / theirs[number] for number, value in ours.items() if value > 0 and theirs.get(number, 0) > 0]


def limit(samples: Sequence[Sample], system: str) -> int:
    """Return the largest number of streams of the ramp that a system carried in every round: none lost, none late."""
    carried = 0
    cases = sorted({(streams_of(sample.case), sample.case) for sample in samples if sample.case.startswith(RAMP)})
    for streams, case in cases:
        of_case = [sample for sample in samples if sample.case == case and sample.system == system]
        if not of_case or not all(map(kept_pace, of_case)):
            break
        carried = streams
    return carried


def streams_of(case: str) -> int:
    """Return the first number in a case's name."""
    digits = "".join(character for character in case.removeprefix(RAMP).split(" ")[0] if character.isdigit())
    return int(digits or 0)

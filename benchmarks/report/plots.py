"""Plots: how latencies are distributed, and what comes through with more at once.  PNG to look at, SVG to keep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report.comparison import Spread, figures, plain, streams_of
from benchmarks.report.document import Document
from benchmarks.rounds import BASELINE, RAMP
from benchmarks.samples import Sample
from benchmarks.statistics import QUANTILES, quantile_name

DISTRIBUTIONS = (
    ("unary", "1 at once", "total", "one request at a time: latency"),
    ("unary", "64 at once", "total", "64 requests at once: latency"),
    ("streams", "100 streams of 50/s", "delay", "100 streams of 50 tokens/s: delay of a token"),
    ("streams", "100 streams of 50/s", "ttft_path", "100 streams: time to first token, less the upstream's"),
    ("streams", "1,000 streams of 10/s", "delay", "1,000 streams of 10 tokens/s: delay of a token"),
)
"""Scenario, case, what, title."""


def draw(document: Document, folder: Path) -> list[Path]:
    """Draw what there are samples for; return the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "illm"  # the same samples, the same file
    from matplotlib import pyplot

    written = []
    for scenario, case, what, title in DISTRIBUTIONS:
        samples = [sample for sample in document.samples if (sample.scenario, sample.case) == (scenario, case)]
        curves = {system: _distribution(samples, system, what) for system in _systems(samples)}
        curves = {system: curve for system, curve in curves.items() if len(curve) == len(QUANTILES)}
        if curves:
            figure, axes = _axes(pyplot, title, "share of the requests" if what == "total" else "share", "ms")
            for system, curve in curves.items():
                axes.plot([1 / (1 - q) for q in QUANTILES], curve, marker=".", **_style(document, system))
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(
                [1 / (1 - q) for q in (0.01, 0.5, 0.9, 0.99, 0.999)], ["1 %", "50 %", "90 %", "99 %", "99.9 %"]
            )
            axes.minorticks_off()
            axes.yaxis.set_major_formatter("{x:,g}")
            written += _save(pyplot, figure, folder, f"{what}-{case}")
    for title, name, prefix, metric, unit, scale in (
        ("Requests a second over concurrency", "throughput", "", "requests_per_s", "requests/s", 1.0),
        ("Delay of a token, p99, over streams of 50/s", "ramp", RAMP, "delay_p99_us", "ms", 1e-3),
    ):
        samples = [sample for sample in document.samples if _counts(sample, prefix)]
        if len({sample.case for sample in samples}) > 1:
            figure, axes = _axes(pyplot, title, "streams at once" if prefix else "requests at once", unit)
            for system in _systems(samples):
                _over_concurrency(axes, samples, system, metric, scale, _style(document, system))
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            counts = sorted({streams_of(sample.case) for sample in samples})
            axes.set_xticks(counts, [f"{count:,}" for count in counts])
            axes.yaxis.set_major_formatter("{x:,g}")
            written += _save(pyplot, figure, folder, name)
    return written


def _counts(sample: Sample, prefix: str) -> bool:
    if prefix:
        return sample.case.startswith(prefix)
    return sample.scenario == "unary" and sample.case.endswith(" at once")


def _systems(samples: Sequence[Sample]) -> list[str]:
    return list(dict.fromkeys(sample.system for sample in samples))


def _distribution(samples: Sequence[Sample], system: str, what: str) -> list[float]:
    """Median over the rounds of every quantile, ms."""
    found = []
    for q in QUANTILES:
        spread = Spread.of(list(figures(samples, system, plain(quantile_name(what, q, "us"), 1e-3)).values()))
        if spread is not None and spread.middle > 0:
            found.append(spread.middle)
    return found


def _over_concurrency(
    axes: Any, samples: Sequence[Sample], system: str, metric: str, scale: float, style: dict[str, Any]
) -> None:
    points = []
    for case in dict.fromkeys(sample.case for sample in samples):
        of_case = [sample for sample in samples if sample.case == case]
        spread = Spread.of(list(figures(of_case, system, plain(metric, scale)).values()))
        if spread is not None:
            points.append((streams_of(case), spread))
    if points:
        at, middles = [at for at, _ in points], [spread.middle for _, spread in points]
        below = [spread.middle - spread.low for _, spread in points]
        above = [spread.high - spread.middle for _, spread in points]
        axes.errorbar(at, middles, yerr=(below, above), capsize=2, marker="o", markersize=3, **style)


def _style(document: Document, system: str) -> dict[str, Any]:
    number = list(document.versions).index(system) if system in document.versions else 0
    style: dict[str, Any] = {"label": system, "color": f"C{number % 10}", "linewidth": 1.2}
    if system == document.reference:
        style["linewidth"] = 2.4
    if system == BASELINE:
        style |= {"color": "black", "linestyle": "--"}
    return style


def _axes(pyplot: Any, title: str, across: str, up: str) -> tuple[Any, Any]:
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _save(pyplot: Any, figure: Any, folder: Path, name: str) -> list[Path]:
    figure.axes[0].legend(fontsize="small")
    plain_name = "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")
    paths = [folder / f"{plain_name}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths

"""Tables in Markdown: one a case, one row a system, the rounds' median with their spread."""

from collections.abc import Iterator, Sequence

from benchmarks.report.comparison import Column, Spread, columns, figures, limit, ratios
from benchmarks.report.document import Document
from benchmarks.report.targets import judge
from benchmarks.rounds import RAMP
from benchmarks.samples import Sample

TIMES, NOTHING = "\N{MULTIPLICATION SIGN}", "-"


def render(document: Document) -> str:
    """Return the whole report."""
    return "\n".join([*_head(document), *_judged(document), *_scenarios(document)]) + "\n"


def _head(document: Document) -> Iterator[str]:
    yield from (f"- {name}: {value}" for name, value in document.machine.items())
    yield f"- rounds: {document.rounds}"
    yield ""
    yield "| system | version |"
    yield "|---|---|"
    yield from (f"| {name} | {version} |" for name, version in document.versions.items())
    yield ""
    yield (
        "Every figure is the median over the rounds, with the least and the greatest. "
        f"{TIMES} is the ratio to `{document.reference}` in the same round."
    )


def _judged(document: Document) -> Iterator[str]:
    lines = list(judge(document))
    if lines:
        yield from ("", f"## Targets of `{document.reference}`", "", *lines)


def _scenarios(document: Document) -> Iterator[str]:
    for name, title in document.titles.items():
        of_scenario = [sample for sample in document.samples if sample.scenario == name]
        yield from ("", f"## {title}")
        for case in dict.fromkeys(sample.case for sample in of_scenario if not sample.case.startswith(RAMP)):
            yield from ("", f"### {case}", "")
            yield from table([sample for sample in of_scenario if sample.case == case], document.reference)
        ramp = [sample for sample in of_scenario if sample.case.startswith(RAMP)]
        if ramp:
            yield from ("", "### Ramp to the limit", "", "| system | most streams of 50/s carried |", "|---|---|")
            for system in dict.fromkeys(sample.system for sample in ramp):
                yield f"| {system} | {limit(ramp, system):,} |"


def table(samples: Sequence[Sample], reference: str) -> Iterator[str]:
    """Yield the lines of one case's table."""
    shown = columns(samples)
    titles = [title for column in shown for title in ((column.title, TIMES) if column.compared else (column.title,))]
    faulty = any(not sample.sound for sample in samples)
    yield f"| system | {' | '.join([*titles, *(['faults'] if faulty else [])])} |"
    yield "|---|" + "---|" * (len(titles) + faulty)
    for system in dict.fromkeys(sample.system for sample in samples):
        cells = [cell for column in shown for cell in _cells(samples, system, reference, column)]
        if faulty:
            cells.append(_faults([sample for sample in samples if sample.system == system]))
        yield f"| {system} | {' | '.join(cells)} |"


def _cells(samples: Sequence[Sample], system: str, reference: str, column: Column) -> Iterator[str]:
    values = figures(samples, system, column.figure)
    yield _spread(Spread.of(list(values.values())), column.digits)
    if column.compared:
        yield "1" if system == reference else _spread(Spread.of(ratios(samples, system, reference, column.figure)), 2)


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return NOTHING
    middle = f"{spread.middle:,.{digits}f}"
    return middle if spread.rounds == 1 else f"{middle} ({spread.low:,.{digits}f} to {spread.high:,.{digits}f})"


def _faults(samples: Sequence[Sample]) -> str:
    told: dict[str, int] = {}
    for sample in samples:
        for name, count in sample.faults.items():
            told[name] = told.get(name, 0) + count
    return ", ".join(f"{name.replace('|', '/')}: {count}" for name, count in told.items()) or "none"

"""`python -m benchmarks.report FOLDER ... [--page docs/performance.md]`: make the report again from JSON files."""

import argparse
import shutil
from functools import reduce
from pathlib import Path

from benchmarks.report.document import Document
from benchmarks.report.markdown import render
from benchmarks.report.plots import draw

BEGIN, END = "<!-- results: written by `python -m benchmarks.report` -->", "<!-- end of the results -->"


def write(document: Document, folder: Path) -> list[Path]:
    """Write `results.json`, `report.md` and the plots; return all the files."""
    folder.mkdir(parents=True, exist_ok=True)
    document.write(folder / "results.json")
    (folder / "report.md").write_text(render(document), encoding="utf-8")
    return [folder / "results.json", folder / "report.md", *draw(document, folder)]


def put_into(page: str, report: str) -> str:
    """Return a page with everything between its two marks replaced.

    Raises:
        ValueError: it has no such marks.
    """
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{report.strip()}\n\n{END}{after}"


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="+", help="with a results.json; of several, the first is written to")
    parser.add_argument("--page", type=Path, help="a page of the documentation that gets tables and plots")
    options = parser.parse_args()
    document = reduce(Document.joined, (Document.read(folder / "results.json") for folder in options.folder))
    written = write(document, options.folder[0])
    if options.page is None:
        return
    if document.quick:
        parser.error("these are figures of a quick run, which show nothing")
    beside = options.page.parent / options.page.stem
    beside.mkdir(exist_ok=True)
    plots = [path for path in written if path.suffix == ".svg"]
    for path in plots:
        shutil.copy(path, beside / path.name)
    shown = "\n\n".join(f"![{path.stem}]({options.page.stem}/{path.name})" for path in plots)
    page = options.page.read_text(encoding="utf-8")
    options.page.write_text(put_into(page, f"{render(document)}\n{shown}"), encoding="utf-8")


if __name__ == "__main__":
    main()

"""`python -m benchmarks`: measure ILLM beside its peers on this machine, and write down what came out."""

import argparse
import importlib
import pkgutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import placement, scenarios
from benchmarks.peers import SYSTEMS, install
from benchmarks.report.__main__ import write
from benchmarks.report.document import Document
from benchmarks.report.machine import describe
from benchmarks.rounds import say
from benchmarks.samples import Sample

SCENARIOS = tuple(module.name for module in pkgutil.iter_modules(scenarios.__path__))

REFERENCE = "illm"
_TERMINATED = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 where any sample is faulty."""
    options = _parser().parse_args(arguments)
    # Whoever terminates the suite wants what it started gone too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    if options.install:
        install(say)
        return 0
    placement.chosen.set(options.placement)
    systems = [SYSTEMS[name] for name in options.system]
    samples: list[Sample] = []
    titles = {}
    for name in options.scenario:
        scenario = importlib.import_module(f"benchmarks.scenarios.{name}")
        titles[name] = scenario.TITLE
        say(f"== {scenario.TITLE}")
        samples += scenario.run(systems, options.rounds, options.quick)
    measured = {sample.system for sample in samples if sample.metrics}
    document = Document(
        samples=samples,
        titles=titles,
        versions={system.name: system.version() for system in systems if system.name in measured},
        machine=describe(),
        rounds=options.rounds,
        reference=REFERENCE,
        quick=options.quick,
    )
    for path in write(document, options.out):
        print(path)
    return int(not all(sample.sound for sample in samples))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=SCENARIOS, metavar="NAME")
    parser.add_argument("--system", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--install", action="store_true", help="only install the peers, each into its environment")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: whether it works, no figures")
    parser.add_argument(
        "--placement", choices=placement.PLACEMENTS, default=placement.FREE, help="of processes on cores"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder of the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks`: measure ILLM beside its peers on this machine, and write down what came out."""

import argparse
import dataclasses
import importlib
import json
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import scenarios
from benchmarks.peers import SYSTEMS
from benchmarks.samples import Sample

SCENARIOS = tuple(module.name for module in pkgutil.iter_modules(scenarios.__path__))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 where any sample is faulty."""
    options = _parser().parse_args(arguments)
    systems = [SYSTEMS[name] for name in options.system]
    samples: list[Sample] = []
    for name in options.scenario:
        scenario = importlib.import_module(f"benchmarks.scenarios.{name}")
        print(f"== {scenario.TITLE}", file=sys.stderr, flush=True)
        samples += scenario.run(systems, options.rounds, options.quick)
    options.out.mkdir(parents=True, exist_ok=True)
    document = {"samples": [dataclasses.asdict(sample) for sample in samples]}
    (options.out / "results.json").write_text(json.dumps(document, indent=1))
    return int(not all(sample.sound for sample in samples))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=SCENARIOS, metavar="NAME")
    parser.add_argument("--system", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: whether it works, no figures")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder of the report")
    return parser


if __name__ == "__main__":
    sys.exit(main())

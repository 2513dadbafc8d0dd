"""Rounds: every system takes its turn at every case, close together, and in another order each time.

A machine's mood changes from minute to minute, so what is compared must have been measured next to each other.  All
systems run from the first round to the last; those that are not asked are idle.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from benchmarks.footprint import cpu_seconds
from benchmarks.load.plan import Plan
from benchmarks.load.process import Generator, generator
from benchmarks.placement import place
from benchmarks.samples import Sample
from benchmarks.standins.pace import Pace
from benchmarks.standins.witness import Witness
from benchmarks.systems import Running, System, Upstream

BASELINE = "direct"
"""The system that is none; what others add is the difference to it."""

RAMP = "ramp: "
"""How the names of cases begin that look for the limit: what is measured there is whether it is past."""

LATE_MS = 50.0
"""Streams whose tokens are later than this at the 99th percentile are not paced any more: at 50 a second one has
overtaken the other twice."""


@dataclass(frozen=True)
class Case:
    """One row of a scenario's table.

    Args:
        name: what it is called there.
        plan: what the generator does; its URL, model, headers and dialect are the system's.
        pace: of the upstream, where it is the paced one.
        step: whether this is a step of a ladder, which is only taken by who stood on the one before.
    """

    name: str
    plan: Plan
    pace: Pace | None = None
    step: bool = False


@contextmanager
def all_running(scenario: str, systems: Sequence[System], upstream: Upstream) -> Iterator[Mapping[str, Running]]:
    """Run every system that can do a scenario; say which cannot be started, and go on without it."""
    with ExitStack() as stack:
        running = {}
        for system in systems:
            if system.name != BASELINE and not system.supports(scenario):
                continue
            try:
                running[system.name] = stack.enter_context(system.running(upstream))
            except RuntimeError as error:
                say(f"{system.name}: {error}")
        yield running


def run_cases(
    scenario: str,
    cases: Sequence[Case],
    systems: Sequence[System],
    rounds: int,
    upstream: Upstream,
    witness: Witness,
) -> list[Sample]:
    """Let every system take its turn at every case.

    Args:
        scenario: its module's name.
        cases: in the order of the table.
        systems: all that were asked for.
        rounds: how many.
        upstream: what they stand in front of.
        witness: what that says it served.

    Returns:
        One sample for each; a system that could not be started has one with that fault.
    """
    samples = []
    with all_running(scenario, systems, upstream) as running, generator() as load:
        for one in running.values():
            place((load.pid, *witness.pids), one.pids)
        missing = [system for system in systems if system.name not in running and system.supports(scenario)]
        samples += [
            Sample(scenario, case.name, system.name, 0, {}, {"did not start": 1})
            for system in missing
            for case in cases
        ]
        for number in range(rounds):
            fallen: set[str] = set()
            for case in cases:
                for system in rotated(list(running), number):
                    if case.step and system in fallen:
                        continue
                    sample = measure(scenario, case, number, running[system], upstream, witness, load)
                    samples.append(sample)
                    if case.step and not kept_pace(sample):
                        fallen.add(system)
                    say(f"{scenario}, {case.name}, round {number + 1}, {system}: {in_short(sample)}")
    return samples


def kept_pace(sample: Sample) -> bool:
    """Return whether every stream was whole, and its tokens came when they should."""
    return sample.sound and sample.metrics["delay_p99_us"] < LATE_MS * 1e3


def rotated(systems: Sequence[str], number: int) -> list[str]:
    """Return the order of a round: each system is first once, in turn."""
    at = number % max(1, len(systems))
    return [*systems[at:], *systems[:at]]


def measure(
    scenario: str, case: Case, number: int, running: Running, upstream: Upstream, witness: Witness, load: Generator
) -> Sample:
    """Measure one system at one case, once; the arguments are `run_cases`'s."""
    plan = replace(
        case.plan,
        url=running.url,
        model=running.model,
        headers=dict(running.headers),
        dialect=upstream.dialect if running.name == BASELINE else "openai",
        seed=number + 1,
    )
    witness.reset(case.pace)
    used = cpu_seconds(running.pids)
    outcome = load.perform(plan)
    used = cpu_seconds(running.pids) - used
    faults = outcome.faults | witness.faults(outcome)
    metrics = outcome.metrics | witness.metrics()
    if running.pids:
        # The warm-up's is in it, as are its answers.
        metrics["system_cpu_us"] = 1e6 * used / max(1, outcome.tokens if plan.tokens > 1 else outcome.answered)
    return Sample(scenario, case.name, running.name, number, metrics, faults)


def in_short(sample: Sample) -> str:
    """Return the figures that whoever waits wants to see."""
    shown = [f"{name} {sample.metrics[name]:.0f}" for name in _SHORT if name in sample.metrics]
    return ", ".join([*shown, *(f"FAULT {name}: {count}" for name, count in sample.faults.items())])


def say(text: str) -> None:
    """Tell whoever waits."""
    print(text, file=sys.stderr, flush=True)


_SHORT = (
    "total_p50_us",
    "total_p99_us",
    "requests_per_s",
    "ttft_path_p50_us",
    "delay_p50_us",
    "delay_p99_us",
    "gap_max_ms",
)

"""The suite against the gateway, with real processes: nothing is lost, and what is lost would be seen."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmarks.load.plan import Plan
from benchmarks.load.process import generator
from benchmarks.peers import direct
from benchmarks.peers.program import Program
from benchmarks.processes import HOST
from benchmarks.rounds import Case, run_cases
from benchmarks.standins.pace import Pace
from benchmarks.standins.process import paced
from benchmarks.standins.witness import Paced, differences
from benchmarks.systems import Upstream

pytestmark = pytest.mark.interop
pytest.importorskip("uvloop", reason="the suite runs on uvloop: pip install 'illm[bench]'")

FRAMEWORKS = {"openai": "vllm", "ollama": "ollama"}


def command(upstream, port, home):
    framework = FRAMEWORKS[upstream.dialect]
    listen = ("--host", HOST, "--port", str(port), "--log-level", "error")
    return [sys.executable, "-m", "illm.server", framework, f"--{framework}-base-url", upstream.url, *listen]


# As the tests find it, and in no environment of its own: there is nothing to install.
VARIABLES = {"PYTHONPATH": ":".join(path for path in sys.path if Path(path, "illm").is_dir())}
OURS = Program(name="illm", environment=None, command=command, about=lambda: "", health="/healthz", variables=VARIABLES)

STREAM = Plan("", "", shape="stream", connections=4, seconds=60, requests=8, tokens=10, warm_up=1)
CASES = [
    Case("whole", Plan("", "", connections=4, seconds=60, requests=40)),
    Case("streamed", STREAM, Pace(tokens=10, rate=200, first_delay=0.01)),
    Case("in step", STREAM, Pace(tokens=10, rate=200, in_step=True)),
]
TOOLS = Case("tools", replace(STREAM, shape="tools"), Pace(tokens=10, rate=200))
EMBEDDINGS = Case("vectors", Plan("", "", shape="embeddings", tokens=0, seconds=60, requests=3))


@dataclass(frozen=True)
class EveryScenario:
    """No gateway at all, for scenarios that have their own word on that, too."""

    name: str = "direct"

    def version(self):
        return ""

    def supports(self, scenario):
        return True

    def running(self, upstream):
        return direct.SYSTEM.running(upstream)


@pytest.mark.parametrize(("dialect", "cases"), [("openai", [*CASES, TOOLS, EMBEDDINGS]), ("ollama", CASES)])
def test_everything_that_is_sent_comes_back(dialect, cases):
    with paced() as stand_in:
        upstream = Upstream(stand_in.url, dialect, "bench")
        samples = run_cases("streams", cases, [EveryScenario(), OURS], 1, upstream, Paced(stand_in))
    assert [(sample.case, sample.system, sample.faults) for sample in samples] == [
        (case.name, system, {}) for case in cases for system in ("direct", "illm")
    ]
    for sample in samples:
        assert sample.metrics["answered"] >= 3
        assert sample.metrics["total_p50_us"] > 0


def test_what_the_upstream_served_and_nobody_saw_is_noticed():
    with paced() as stand_in, generator() as load:
        stand_in.configure(Pace())
        plan = Plan(stand_in.url, "bench", seconds=60, requests=5, warm_up=0)
        seen = load.perform(plan)
        load.perform(plan)
        assert differences(stand_in.counts(), seen) == {
            "upstream answered otherwise": 5,
            "upstream sent more tokens": 5,
        }


def test_an_open_loop_begins_what_is_due_and_counts_what_it_could_not():
    with paced() as stand_in, generator() as load:
        stand_in.configure(Pace(tokens=3, rate=50, first_delay=0.01))
        plan = Plan(stand_in.url, "bench", shape="stream", tokens=3, rate=100, seconds=0.2, warm_up=0)
        assert load.perform(replace(plan, connections=20)).metrics["answered"] == 20
        outcome = load.perform(replace(plan, connections=1))
    assert outcome.metrics["answered"] + outcome.faults["never sent"] == 20

"""The load generator as a process: a plan a line on standard input, an outcome a line on standard output."""

import dataclasses
import gc
import json
import sys
import time

from benchmarks.descriptors import raise_limit
from benchmarks.load.bodies import prepare
from benchmarks.load.judgement import judge
from benchmarks.load.loops import Load, closed_loop, connect, open_loop, warm_up
from benchmarks.load.plan import Outcome, Plan


async def perform(plan: Plan) -> Outcome:
    """Carry out a plan.  What can be done before the clock starts, or after it stopped, is."""
    load = Load(plan, prepare(plan))
    connections = await warm_up(load, await connect(plan, plan.connections))
    gc.collect()
    gc.freeze()
    gc.disable()
    cpu, began = time.process_time(), time.perf_counter()
    try:
        await (open_loop if plan.rate is not None else closed_loop)(load, connections)
    finally:
        cpu, wall = time.process_time() - cpu, time.perf_counter() - began
        gc.enable()
        gc.unfreeze()
    for connection in connections:
        connection.transport.abort()
    last = max((exchange.ended for exchange in load.exchanges), default=0)
    outcome = judge(plan, load.exchanges, load.warming, (last - load.began) / 1e9)
    metrics = {**outcome.metrics, "generator_cpu_percent": 100 * cpu / wall, "wall_s": wall}
    faults = outcome.faults | ({"never sent": load.missing} if load.missing else {})
    return dataclasses.replace(outcome, metrics=metrics, faults=faults)


def main() -> None:
    """Serve plans until standard input ends."""
    try:
        import uvloop
    except ImportError:
        sys.exit("the benchmarks need the extra `bench`: pip install 'illm[bench]'")
    raise_limit()
    for line in sys.stdin:
        outcome = uvloop.run(perform(Plan(**json.loads(line))))
        print(json.dumps(dataclasses.asdict(outcome)), flush=True)


if __name__ == "__main__":
    main()

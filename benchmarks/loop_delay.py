"""How late the gateway's event loop is while the local engine decodes at full load.

    python -m benchmarks.loop_delay [--streams 0 8 32 0] [--seconds 20] [--output FILE]

Needs an environment with the extras `local` and `demo`.  A task on the gateway's own loop asks to be woken every few
milliseconds and notes how late it was: that is what a request of another backend would wait.  The streams' client is a
process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import anyio
import anyio.abc

from benchmarks.processes import HOST
from illm import create_app
from illm.config import Config
from illm.server import serve

EVERY = 0.005


async def lateness(seconds: float) -> list[float]:
    """Return by how many milliseconds each wake-up of some seconds was late."""
    found = []
    until = time.perf_counter() + seconds
    while (asked := time.perf_counter()) < until:
        await anyio.sleep(EVERY)
        found.append(1e3 * (time.perf_counter() - asked - EVERY))
    return found


async def streaming(url: str, streams: int, seconds: float) -> list[float]:
    """Return the lateness while curl holds that many streams open.

    Args:
        url: of the gateway.
        streams: how many; 0 to measure it at rest.
        seconds: for how long, once they have begun.

    Raises:
        RuntimeError: the streams ended before the measurement did.
    """
    if not streams:
        return await lateness(seconds)
    body = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True, "temperature": 1}
    many = ["--parallel", "--parallel-immediate", "--parallel-max", str(streams)]
    command = ["curl", "-sN", *many, "-H", "content-type: application/json", "-d", json.dumps(body)]
    urls = [f"{url}/v1/completions"] * streams
    async with await anyio.open_process([*command, *urls], stdout=subprocess.DEVNULL) as process:
        try:
            await anyio.sleep(3)
            found = await lateness(seconds)
            if process.returncode is not None:
                raise RuntimeError("the streams ended early")
        finally:
            process.kill()
    return found


async def measure(numbers: list[int], seconds: float) -> list[dict[str, float]]:
    """Return the percentiles of the lateness, in milliseconds, at each number of streams."""
    found: list[dict[str, float]] = []
    shutdown = anyio.Event()
    app = create_app(Config(model="demo", log_level="error"))
    async with app.running() as directory, anyio.create_task_group() as tasks:
        await directory.settled()

        async def start(*, task_status: anyio.abc.TaskStatus[list[tuple[str, int]]]) -> None:
            await serve(app, host=HOST, port=0, shutdown=shutdown, task_status=task_status)

        [(host, port), *_] = await tasks.start(start)
        url = f"http://{host}:{port}"
        for number in numbers:
            late = sorted(await streaming(url, number, seconds))
            row = {
                "streams": number,
                "wake_ups": len(late),
                "p50_ms": statistics.median(late),
                "p99_ms": late[int(0.99 * len(late))],
                "longest_ms": late[-1],
            }
            found.append(row)
            await anyio.sleep(2)
        shutdown.set()
    return found


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[0, 8, 32, 0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    options = {"use_uvloop": find_spec("uvloop") is not None}
    found = anyio.run(measure, given.streams, given.seconds, backend_options=options)
    report = json.dumps({"uvloop": options["use_uvloop"], "late": found}, indent=1)
    if given.output is not None:
        given.output.write_text(report + "\n", encoding="utf-8")
    sys.stdout.write(report + "\n")


if __name__ == "__main__":
    main()

"""Start systems by hand, to profile one or to look at it: they serve until interrupted.

python -m benchmarks.peers illm sglang-router --upstream http://127.0.0.1:9000 --model bench
"""

import argparse
import signal
import sys
from contextlib import ExitStack, suppress

from benchmarks.peers import SYSTEMS
from benchmarks.systems import Upstream


def main() -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Start systems under test.")
    parser.add_argument("system", nargs="+", choices=SYSTEMS)
    parser.add_argument("--upstream", required=True, metavar="URL", help="what they stand in front of, without /v1")
    parser.add_argument("--dialect", choices=("openai", "ollama"), default="openai")
    parser.add_argument("--model", default="bench", help="the name that requests carry")
    args = parser.parse_args()
    # Whoever terminates this wants the systems gone too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        for name in args.system:
            running = stack.enter_context(SYSTEMS[name].running(Upstream(args.upstream, args.dialect, args.model)))
            headers = " ".join(f"-H '{header}: {value}'" for header, value in running.headers.items())
            print(f"{name}\t{running.url}\tpids {' '.join(map(str, running.pids))}\t{headers}".rstrip(), flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The paced stand-in as a process: `python -m benchmarks.standins PORT` serves until it is ended."""

import asyncio
import gc
import sys

from benchmarks.descriptors import raise_limit
from benchmarks.processes import HOST
from benchmarks.standins.paced import Connection, Server


async def serve(port: int) -> None:
    """Listen on a port of loopback."""
    shared = Server()
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(shared), HOST, port, backlog=4096)
    gc.freeze()
    await listening.serve_forever()


def main() -> None:
    """Run on uvloop: the suite's numbers assume it."""
    try:
        import uvloop
    except ImportError:
        sys.exit("the benchmarks need the extra `bench`: pip install 'illm[bench]'")
    raise_limit()
    uvloop.run(serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()

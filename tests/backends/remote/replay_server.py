"""A server that says, over real sockets, byte for byte what a real one was recorded saying.

A POST is answered with the exchange that a test plays; GETs with whatever that server was recorded answering there.
What becomes of the bytes on their way is a `fake_server` script: `Reads.cut` makes one that waits, after each piece,
until the gateway has read it, so that no two pieces arrive as one; any other may be given.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import anyio

from backends.remote.fake_server import CLOSE, Act, FakeServer, Script, Seen, Step, fake_server, response
from backends.remote.recordings import Exchange, read, recorded

UNRECORDED = response(b'{"detail":"Not Found"}', 404, content_type="application/json")


@dataclass
class Replay:
    """The server, and what it will say next; `probed` are the paths of the GETs that came."""

    server: FakeServer
    probed: list[str] = field(default_factory=list)
    exchange: Exchange | None = None
    script: Script = ()

    def play(self, exchange: Exchange, script: Script | None = None) -> None:
        """Answer the requests from here on with one recorded exchange, or with what a script makes of it."""
        self.server.requests.clear()
        self.exchange = exchange
        self.script = [exchange.wire, CLOSE] if script is None else script

    def answer(self, seen: Seen) -> Script:
        """Return the script for a request: another path than the recorded one is answered 404."""
        known = self.exchange is not None and seen.target == self.exchange.path
        return self.script if known else [UNRECORDED]


@asynccontextmanager
async def replay_server(recordings: str) -> AsyncIterator[Replay]:
    """Run a server with the recordings of one folder while the block lasts."""
    exchanges = [read(*name) for name in recorded(recordings)]
    unasked = {one.path: [one.wire, CLOSE] for one in exchanges if one.method == "GET" and one.wire}
    async with fake_server() as server:
        replay = Replay(server)

        def probe(seen: Seen) -> Script:
            replay.probed.append(seen.target)
            return unasked.get(seen.target, [UNRECORDED])

        server.choose, server.probe = replay.answer, probe
        yield replay


@dataclass
class Reads:
    """What the gateway has read from its servers since `begin`: the size of each read."""

    sizes: list[int] = field(default_factory=list)
    _more: anyio.Event = field(default_factory=anyio.Event)

    async def begin(self) -> None:
        """Count from here."""
        self.sizes.clear()

    def note(self, data: bytes | None) -> None:
        """Something was read."""
        if data:
            self.sizes.append(len(data))
            self._more.set()
            self._more = anyio.Event()

    async def until(self, total: int) -> None:
        """Wait until so many bytes have been read."""
        while sum(self.sizes) < total:
            await self._more.wait()

    def cut(self, wire: bytes, cuts: Sequence[int], end: Act = CLOSE) -> list[Step]:
        """Return the script that sends what lies between the cuts, each piece once the one before has been read."""
        edges = sorted({0, *cuts, len(wire)})
        script: list[Step] = [self.begin]
        for start, stop in pairwise(edges):
            script += [wire[start:stop], partial(self.until, stop)]
        return [*script, end]

"""Recorded answers that break off or fall silent at every byte, through the application and its workers.

Memory takes the place of upstream sockets, so that a test's clock can jump over the deadlines.
"""

import anyio
import anyio.lowlevel
import pytest
import trio
from asgi.driver import driving

from backends.remote.fake_server import CLOSE, RESET, STALL
from backends.remote.recordings import read
from backends.remote.replay_faults import check_broken
from backends.remote.replay_tables import FRAMEWORKS
from illm.asgi.app import create_app
from illm.backends.remote import connection, workers
from illm.config import Config
from illm.loop.stream_wire import StreamWire
from illm.loop.tasks import hold
from illm.loop.wake import Wake

pytestmark = [pytest.mark.trio, pytest.mark.exhaustive]

CASES = [("vllm", "chat_stop_stream"), ("vllm", "chat"), ("sglang", "err_too_long")]
FAILURES = {CLOSE: (502, "bad_upstream"), RESET: (502, "bad_upstream"), STALL: (504, "timeout")}
WAITS = {CLOSE: (0, 0), RESET: (0, 0), STALL: (1, 2.2)}
"""Seconds until it is given up: between bytes, and until the first, a tick late at most."""
PATIENT = {"first_token_timeout": 2.0, "idle_timeout": 1.0}


class Upstream:
    """A connection on which an answer breaks off.

    Args:
        script: what comes, and how it ends.
        lists: what a GET is answered with.
    """

    def __init__(self, script, lists):
        self._answer = script
        self._lists = lists
        self._script = []
        self._asked = Wake()
        self.closed = False

    async def send(self, data):
        await anyio.lowlevel.checkpoint()
        self._script = [self._lists, CLOSE] if data.startswith(b"GET ") else list(self._answer)
        self._asked.set()

    async def receive(self, max_bytes=65536):
        await anyio.lowlevel.checkpoint()
        while not self._script:
            await self._asked.wait()
        step = self._script.pop(0)
        if isinstance(step, bytes):
            return step
        if step is STALL:
            await anyio.sleep_forever()
        await anyio.wait_all_tasks_blocked()  # what came before the end is told first, as between two reads
        raise anyio.EndOfStream if step is CLOSE else anyio.BrokenResourceError

    async def aclose(self):
        self.closed = True
        await anyio.lowlevel.checkpoint()

    def extra(self, attribute, default=None):
        return default


@pytest.mark.parametrize("end", FAILURES)
@pytest.mark.parametrize(("server", "case"), CASES)
async def test_no_answer_that_stops_at_any_byte_looks_complete(server, case, end, autojump_clock, monkeypatch):
    exchange, framework = read(server, case), FRAMEWORKS[server]
    script, opened = [], []

    async def connect(asked, receiver):
        opened.append(Upstream(script, read(server, "get_v1_models").wire))
        wire = StreamWire(opened[-1], receiver)
        hold(wire.run, "wire")  # as real ones are
        return wire

    monkeypatch.setattr(workers, "connect", connect)
    monkeypatch.setattr(connection, "connect", connect)
    said = {"ollama_base_url": (), f"{framework}_base_url": ("http://there",)}
    request = {"body": exchange.asked, "headers": {"content-type": "application/json"}}
    async with driving(create_app(Config(framework=framework, **said, **PATIENT))) as driver:
        script[:] = [exchange.wire, end]
        whole = await driver.ask(exchange.path, **request)
        assert (whole.status, whole.ended) == (200 if exchange.status == 200 else 400, True)
        for length in range(len(exchange.wire)):
            script[:] = [piece for piece in (exchange.wire[:length], end) if piece]
            began = trio.current_time()
            talk = await driver.ask(exchange.path, **request)
            assert talk.ended
            check_broken(exchange, length, talk.status, talk.body, whole.body, FAILURES[end])
            assert opened[-1].closed
            least, most = WAITS[end]
            assert least <= trio.current_time() - began <= most

"""The paced stand-in: answers at once or token by token at a set pace, and counts what it served.

All streams hang on one timer, and each token is one formatting and one write, so that a small part of a core carries
thousands of tokens a second.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from typing import Any, cast

from benchmarks.marks import find_tag
from benchmarks.socket_write import write_now
from benchmarks.standins import frames
from benchmarks.standins.pace import Counts, Pace
from benchmarks.standins.requests import Request, RequestParser
from benchmarks.standins.wheel import Wheel

TICK_NS = 1_000_000
GOLDEN = (5**0.5 - 1) / 2
ENDS = 2048
"""Bytes at either end of a request's body in which the fields are that steer the answer; in between is the prompt."""


class Server:
    """All connections of the stand-in: its pace, its counts and its one timer."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.counts = Counts()
        self._cpu, self._began = time.process_time(), time.monotonic()
        self._wheel: Wheel[Stream] = Wheel()
        self._ticking = False
        self._begun = 0

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Set the pace of what begins from now on, and count from zero; see `Pace`."""
        self.pace, self.counts = Pace(**settings), Counts()
        self._cpu, self._began = time.process_time(), time.monotonic()

    def report(self) -> bytes:
        """Return the counts as JSON."""
        self.counts.cpu_s, self.counts.wall_s = time.process_time() - self._cpu, time.monotonic() - self._began
        return json.dumps(asdict(self.counts)).encode()

    def start(self, stream: "Stream") -> None:
        """Let a stream speak when its first token is due."""
        delay = int(self.pace.first_delay * 1e9)
        if self.pace.in_step:
            stream.due += delay
            stream.due += -stream.due % stream.period
        elif delay == 0:
            self._speak(stream)
            return
        else:
            # Multiples of the golden ratio fill any interval evenly, however many there are.
            self._begun += 1
            stream.due += delay + int(self._begun * GOLDEN % 1 * stream.period)
        self._wait(stream)

    def _wait(self, stream: "Stream") -> None:
        self._wheel.add(stream.due // TICK_NS, stream)
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK_NS / 1e9, self._tick)

    def _tick(self) -> None:
        now = time.monotonic_ns()
        due = self._wheel.due(now // TICK_NS)
        if due:
            self.counts.worst_lag_ms = max(self.counts.worst_lag_ms, (now - due[0].due) / 1e6)
        for stream in due:
            if not stream.gone:
                self._speak(stream)
        self._ticking = bool(self._wheel)
        if self._ticking:
            asyncio.get_running_loop().call_later(TICK_NS / 1e9, self._tick)

    def _speak(self, stream: "Stream") -> None:
        answer = stream.frames
        now = time.monotonic_ns()
        write_now(stream.transport, stream.descriptor, answer.token(stream.index, stream.received, now))
        self.counts.tokens += 1
        stream.index += 1
        if stream.index == answer.tokens:
            self.counts.answered += 1
            stream.connection.ended()
        else:
            stream.due += stream.period
            self._wait(stream)


class Stream:
    """One answer that is on its way.

    Args:
        connection: where it goes.
        answer: what is said.
        received: when the request was complete, ns.
        period: ns from one token to the next.
    """

    __slots__ = ("connection", "descriptor", "due", "frames", "gone", "index", "period", "received", "transport")

    def __init__(self, connection: "Connection", answer: frames.Frames, received: int, period: int) -> None:
        self.connection = connection
        self.transport = connection.transport
        self.descriptor = connection.descriptor
        self.frames = answer
        self.index = 0
        self.received = self.due = received
        self.period = period
        self.gone = False


class Connection(asyncio.Protocol):
    """One connection to the stand-in."""

    transport: asyncio.Transport
    descriptor: int

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = RequestParser()
        self._waiting: list[Request] = []
        self._stream: Stream | None = None
        self._close = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self.descriptor = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        """Answer what is complete; one at a time."""
        self._waiting += self._parser.feed(data)
        self._answer()

    def connection_lost(self, error: Exception | None) -> None:
        """Stop speaking."""
        if self._stream is not None:
            self._stream.gone = True
            self._server.counts.broken += 1

    def ended(self) -> None:
        """The stream has said all."""
        self._stream = None
        if self._close:
            self.transport.close()
        else:
            self._answer()

    def _answer(self) -> None:
        while self._waiting and self._stream is None:
            request = self._waiting.pop(0)
            self._close = request.close
            kind = _POSTS.get(request.path.partition(b"?")[0]) if request.method == b"POST" else None
            if kind is not None:
                kind(self, request)
            else:
                self._write(_probe(self._server, request))
            if self._close and self._stream is None:
                self.transport.close()

    def _write(self, body: bytes, kind: bytes = b"application/json") -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (kind, len(body))
        write_now(self.transport, self.descriptor, head + body)

    def _tagged(self, request: Request) -> tuple[bytes, bytes]:
        counts = self._server.counts
        counts.requests += 1
        ends = request.body if len(request.body) <= 2 * ENDS else request.body[:ENDS] + request.body[-ENDS:]
        tag = find_tag(request.body)
        counts.untagged += tag is None
        return ends, tag or b"0" * 12

    def _chat(self, request: Request) -> None:
        ends, tag = self._tagged(request)
        self._talk(request, ends, tag, frames.STREAMED.search(ends) is not None, openai=True)

    def _ollama_chat(self, request: Request) -> None:
        ends, tag = self._tagged(request)
        self._talk(request, ends, tag, frames.NOT_STREAMED.search(ends) is None, openai=False)

    def _talk(self, request: Request, ends: bytes, tag: bytes, streamed: bool, *, openai: bool) -> None:
        received, pace = time.monotonic_ns(), self._server.pace
        if streamed:
            render = frames.openai_stream if openai else frames.ollama_stream
            answer = render(ends, tag, pace.tokens, pace.size, request.size)
            self._stream = Stream(self, answer, received, int(1e9 / pace.rate))
            self._server.start(self._stream)
        else:
            whole = frames.openai_answer if openai else frames.ollama_answer
            sent = time.monotonic_ns()
            self._write(whole(ends, tag, pace.size, request.size, received, sent))
            self._server.counts.answered += 1
            self._server.counts.tokens += 1

    def _embed(self, request: Request) -> None:
        ends, tag = self._tagged(request)
        packed = frames.BASE64.search(ends) is not None
        pace = self._server.pace
        self._write(_embeddings(pace.inputs, pace.dimensions, packed)(tag))
        self._server.counts.answered += 1


# A megabyte, and the same each time but for one number.
_embeddings = cache(frames.embeddings_answer)


def _probe(server: Server, request: Request) -> bytes:
    if request.path == b"/_/configure":
        server.configure(json.loads(request.body))
        return b"{}"
    if request.path == b"/_/counts":
        return server.report()
    server.counts.probes += 1
    return _ANSWERS.get(request.path.partition(b"?")[0], b"{}")


_POSTS: dict[bytes, Callable[[Connection, Request], None]] = {
    b"/v1/chat/completions": Connection._chat,
    b"/api/chat": Connection._ollama_chat,
    b"/v1/embeddings": Connection._embed,
}

_ANSWERS = {
    b"/v1/models": b'{"object":"list","data":[{"id":"bench","object":"model","created":1,"owned_by":"bench"}]}',
    b"/api/tags": b'{"models":[{"name":"bench:latest","model":"bench:latest"}]}',
    b"/api/version": b'{"version":"0.20.0"}',
}

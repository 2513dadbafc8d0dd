"""The server's side of a connection: bytes in, events out, one request at a time.

The parser owns the boundaries: it finds where a head ends, counts a body of known length and walks over the framing of
a chunked one, and gives its engine exactly one message's bytes.  Where engine and check disagree about the
end of a message, the request is refused.  After `End` it holds what follows (pipelined requests) until it is told that
the response is out.  It gives up 100-continue timing, deadlines and half-closes: those need a clock or a socket.
"""

from collections.abc import Callable

from illm.http11.chunks import ChunkCheck
from illm.http11.engine import Engine, EngineFactory, H11Engine
from illm.http11.events import Body, End, Event, Head, Refusal, Refused
from illm.http11.framing import check_head, check_partial
from illm.http11.limits import MessageLimits

_END = End()


class RequestParser:
    """Parses the requests of one connection.

    Args:
        limits: how large a request may be.
        engine: makes the parser of one message.
    """

    __slots__ = ("_buffer", "_chunks", "_engine", "_left", "_limits", "_make_engine", "_seen", "_skipped", "_step")

    def __init__(self, limits: MessageLimits, engine: EngineFactory = H11Engine) -> None:
        self._limits = limits
        self._make_engine = engine
        self._buffer = bytearray()
        self._begin()

    def _begin(self) -> None:
        # A plain function, not a bound method: no cycle for the garbage collector to find.
        self._step: _Step | None = RequestParser._head
        self._engine: Engine | None = None
        self._chunks: ChunkCheck | None = None
        self._left = 0
        self._seen = 0
        self._skipped = False

    @property
    def buffered(self) -> int:
        """Bytes held: an unfinished head, or what follows the current request."""
        return len(self._buffer)

    @property
    def unread(self) -> int | None:
        """Bytes of the body still to come; `None` if only its end will tell."""
        return None if self._chunks is not None else self._left

    def feed(self, data: bytes) -> list[Event]:
        """Take what came from the socket; return what it completes.  After `Refused` nothing is ever returned."""
        self._buffer += data
        return self._advance()

    def next_request(self) -> list[Event]:
        """Go on to the next request of the stream, of which some or all bytes may be here already.

        Raises:
            RuntimeError: if the current request has not ended.
        """
        if self._step is not None or self._engine is None:
            raise RuntimeError("the current request has not ended")
        self._begin()
        return self._advance()

    def _advance(self) -> list[Event]:
        events: list[Event] = []
        try:
            while self._step is not None and self._step(self, events):
                pass
        except Refusal as refusal:
            self._step = self._engine = None
            events.append(Refused(refusal.status, refusal.reason))
        if self._step is None and self._engine is None:
            self._buffer.clear()
        return events

    def _head(self, events: list[Event]) -> bool:
        buffer = self._buffer
        if not self._skipped and buffer.startswith(b"\r\n"):
            # RFC 9112 2.2: one empty line before the request line is ignored, as old clients send it after a body.
            del buffer[:2]
            self._seen = 0
            self._skipped = True
        if not buffer:
            return False
        end = buffer.find(b"\r\n\r\n", max(self._seen - 3, 0)) + 4
        if end < 4:
            check_partial(buffer, self._seen, self._limits)
            self._seen = len(buffer)
            return False
        if end > self._limits.head_bytes:
            check_partial(buffer[:end], 0, self._limits)
        block = bytes(buffer[:end])
        framing = check_head(block, self._limits)
        engine = self._make_engine()
        headers = engine.head(block)
        del buffer[:end]
        events.append(
            Head(
                framing.method.decode("ascii"),
                framing.target,
                framing.version.decode("ascii"),
                headers,
                framing.length,
                framing.keep_alive,
                framing.expect_continue,
            )
        )
        self._engine = engine
        if framing.length is None:
            self._chunks = ChunkCheck(self._limits)
            self._step = RequestParser._chunked
        else:
            self._left = framing.length
            self._step = RequestParser._counted
        return True

    def _counted(self, events: list[Event]) -> bool:
        size = min(self._left, len(self._buffer))
        if not size and self._left:
            return False
        self._left -= size
        self._pass_on(size, ended=not self._left, events=events)
        return False

    def _chunked(self, events: list[Event]) -> bool:
        assert self._chunks is not None  # noqa: S101  # set together with this step
        size = self._chunks.take(self._buffer)
        if size:
            self._pass_on(size, ended=self._chunks.done, events=events)
        return False

    def _pass_on(self, size: int, *, ended: bool, events: list[Event]) -> None:
        assert self._engine is not None  # noqa: S101  # made with the head
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        data, engine_ended = self._engine.body(data)
        if data:
            events.append(Body(data))
        if engine_ended != ended:
            raise Refusal(400, "ambiguous end of message")
        if ended:
            self._chunks = None
            self._step = None
            events.append(_END)


_Step = Callable[[RequestParser, list[Event]], bool]

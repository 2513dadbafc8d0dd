"""The server's side of a connection: bytes in, events out, one request at a time.

The parser owns the boundaries: it finds where a head ends, counts a body of known length and walks over the framing of
a chunked one.  An engine, if there is one, reads exactly one message's bytes after it; where the two do not agree, the
request is refused.  After `End` the parser holds what follows (pipelined requests) until it is told that the response
is out.  It gives up 100-continue timing, deadlines and half-closes: those need a clock or a socket.
"""

from illm.http11.chunks import ChunkCheck
from illm.http11.engine import Engine, EngineFactory
from illm.http11.events import Body, End, Event, Head, Refusal, Refused
from illm.http11.framing import check_head, check_partial
from illm.http11.limits import MessageLimits
from illm.http11.repeated import RepeatedHead, remember

_END = End()


_HEAD, _COUNTED, _CHUNKED, _ENDED, _REFUSED = range(5)
"""What a parser expects next."""


class RequestParser:
    """Parses the requests of one connection.

    Args:
        limits: how large a request may be.
        engine: makes the second reader of one message; None for none.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_engine",
        "_left",
        "_limits",
        "_make_engine",
        "_repeated",
        "_seen",
        "_skipped",
        "_stage",
    )

    def __init__(self, limits: MessageLimits, engine: EngineFactory | None = None) -> None:
        self._limits = limits
        self._make_engine = engine
        self._buffer = bytearray()
        """An unfinished head or size line, or what follows the current request."""
        self._repeated: RepeatedHead | None = None
        self._engine: Engine | None = None
        self._chunks: ChunkCheck | None = None
        self._left = 0
        self._seen = 0
        """Bytes of an unfinished head that were looked at."""
        self._skipped = False
        self._stage = _HEAD

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
        stage = self._stage
        if (
            stage == _HEAD
            and self._repeated is not None
            and not self._buffer
            and (found := self._repeated.match(data, self._limits)) is not None
        ):
            return self._again(*found, data)
        events: list[Event] = []
        if stage == _REFUSED:
            return events
        if self._buffer or stage == _ENDED:
            self._buffer += data
            if stage != _ENDED:
                self._resume(events)
        else:
            self._read(data, events)
        return events

    def next_request(self) -> list[Event]:
        """Go on to the next request of the stream, of which some or all bytes may be here already.

        Raises:
            RuntimeError: if the current request has not ended.
        """
        if self._stage != _ENDED:
            raise RuntimeError("the current request has not ended")
        self._stage = _HEAD
        self._seen = 0
        self._skipped = False
        events: list[Event] = []
        if self._buffer:
            self._resume(events)
        return events

    def _again(self, head: Head, end: int, data: bytes) -> list[Event]:
        """Go on after a head that was recognised: mostly the whole request is here."""
        left = head.length or 0
        if len(data) == end + left:
            self._left = 0
            self._stage = _ENDED
            return [head, Body(data[end:]), _END] if left else [head, _END]
        self._left = left
        self._stage = _COUNTED
        events: list[Event] = [head]
        self._counted(data[end:], events)
        return events

    def _resume(self, events: list[Event]) -> None:
        if self._stage == _HEAD and self._buffer.find(b"\r\n\r\n", max(self._seen - 3, 0)) < 0:
            try:
                self._partial()
            except Refusal as refusal:
                self._refuse(refusal, events)
            return
        data = bytes(self._buffer)
        self._buffer.clear()
        self._read(data, events)

    def _read(self, data: bytes, events: list[Event]) -> None:
        try:
            if self._stage == _HEAD:
                if not data:
                    return
                data = self._head(data, events)
            if self._stage == _COUNTED:
                self._counted(data, events)
            elif self._stage == _CHUNKED:
                self._chunked(data, events)
        except Refusal as refusal:
            self._refuse(refusal, events)

    def _refuse(self, refusal: Refusal, events: list[Event]) -> None:
        self._stage = _REFUSED
        self._engine = None
        self._buffer.clear()
        events.append(Refused(refusal.status, refusal.reason))

    def _partial(self) -> None:
        buffer = self._buffer
        if not self._skipped and buffer.startswith(b"\r\n"):
            del buffer[:2]
            self._seen = 0
            self._skipped = True
        if buffer:
            check_partial(buffer, self._seen, self._limits)
        self._seen = len(buffer)

    def _head(self, data: bytes, events: list[Event]) -> bytes:
        """Read a head; return what follows it."""
        if not self._skipped and data.startswith(b"\r\n"):
            # RFC 9112 2.2: one empty line before the request line is ignored, as old clients send it after a body.
            data = data[2:]
            self._skipped = True
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._buffer += data
            self._partial()
            return b""
        block = data[:end]
        if end > self._limits.head_bytes:
            check_partial(bytearray(block), 0, self._limits)
        head = check_head(block, self._limits)
        if self._make_engine is None:
            self._repeated = remember(block, head, self._limits)
        else:
            self._engine = _confirmed(self._make_engine(), block, head)
        events.append(head)
        if head.length is None:
            self._chunks = ChunkCheck(self._limits)
            self._stage = _CHUNKED
        else:
            self._left = head.length
            self._stage = _COUNTED
        return data[end:]

    def _counted(self, data: bytes, events: list[Event]) -> None:
        left, size = self._left, len(data)
        if size > left:
            self._buffer += data[left:]
            data, size = data[:left], left
        self._left = left = left - size
        if size or not left:
            self._pass_on(data, data, not left, events)

    def _chunked(self, data: bytes, events: list[Event]) -> None:
        chunks = self._chunks
        assert chunks is not None  # noqa: S101  # set together with this stage
        size = chunks.take(data)
        if size < len(data):
            self._buffer += data[size:]
        if size:
            self._pass_on(data[:size], chunks.pieces(), chunks.done, events)

    def _pass_on(self, raw: bytes, data: bytes, ended: bool, events: list[Event]) -> None:
        if data:
            events.append(Body(data))
        if self._engine is not None and self._engine.body(raw) != (data, ended):
            raise Refusal(400, "ambiguous end of message")
        if ended:
            self._chunks = self._engine = None
            self._stage = _ENDED
            events.append(_END)


def _confirmed(engine: Engine, block: bytes, head: Head) -> Engine:
    # Engines may lower a value's case.
    if [(name, value.lower()) for name, value in engine.head(block)] != [(n, v.lower()) for n, v in head.headers]:
        raise Refusal(400, "ambiguous header fields")
    return engine

"""Answers of servers that speak the client's own dialect: relayed as they are, or repaired where something must change.

A stream is relayed, one `Raw` a socket read, while its bytes hold none of a few words; frames that do (an error, a
count, a reason to end) are parsed, and so is every frame of a stream that needs repair throughout.  Either way a stream
ends honestly: with `[DONE]` if every choice gave a reason to end, and with a failure otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from illm.backends.remote.repair import JSON, Asked, read_usage, repair_answer
from illm.backends.remote.repair_chunks import ChunkRepair
from illm.backends.remote.upstream_errors import nonsense, read_complaint, upstream_error
from illm.core.events import Done, Event, Failed, Raw, Usage
from illm.core.requests import Request
from illm.core.sse import MAX_EVENT, SSEDecoder
from illm.errors import GatewayError

MAX_ANSWER = 512 * 1024 * 1024
MAX_ERROR = 1024 * 1024

NEEDLES = (
    b'"reasoning"',
    b'"error"',
    b'"abort"',
    b'"repetition"',
    b'"usage":{',
    b'"finish_reason":"',
    b"[DONE]",
)
"""What a relayed frame may not hold.  In a JSON string quotes are escaped, so text looks like none of the first six."""

DONE = b"data: [DONE]\n\n"


class Body(Protocol):
    """A response's body, once its head has said what it is.  Raises `GatewayError` where `Decoder` returns `Failed`."""

    def feed(self, data: bytes) -> Sequence[Event]:
        """Take a piece."""

    def close(self) -> Sequence[Event]:
        """The body has ended."""


class ErrorBody:
    """The body of an error: collected, then read.

    Args:
        framework, request: who answered, and what.
        status, headers: of the response.
    """

    def __init__(self, framework: str, request: Request, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._about = (framework, request, status)
        self._headers = headers
        self._body = bytearray()

    def feed(self, data: bytes) -> Sequence[Event]:
        """Keep what one can be expected to read."""
        self._body += data[: MAX_ERROR - len(self._body)]
        return ()

    def close(self) -> Sequence[Event]:
        """Raise it."""
        raise upstream_error(*self._about, read_complaint(bytes(self._body)), self._headers)


class Collected:
    """A body that makes sense only as a whole; subclasses make the sense.

    Args:
        framework: who answers, for messages.
        limit: the most bytes that are kept.
    """

    def __init__(self, framework: str, limit: int = MAX_ANSWER) -> None:
        self.framework = framework
        self._limit = limit
        self._size = 0
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> Sequence[Event]:
        """Keep a piece."""
        self._size += len(data)
        if self._size > self._limit:
            raise nonsense(self.framework, f"sent an answer larger than {self._limit} bytes")
        self._pieces.append(data)
        return ()

    def close(self) -> Sequence[Event]:
        """Give the whole to `read`."""
        return self.read(b"".join(self._pieces))

    def read(self, body: bytes) -> Sequence[Event]:
        """Make events of a whole body."""
        raise NotImplementedError

    def decoded(self, body: bytes) -> JSON:
        """Decode a JSON object.  Raises `GatewayError` where it is none."""
        try:
            value: Any = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise nonsense(self.framework, "answered something that is no JSON object")
        return value


class WholeAnswer(Collected):
    """A chat or a completion that is not streamed.

    Args:
        asked: what it has to look like.
    """

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked.framework)
        self._asked = asked

    def read(self, body: bytes) -> Sequence[Event]:
        """Repair it."""
        answer = self.decoded(body)
        usage = read_usage(answer.get("usage"))
        fixed = repair_answer(self._asked, answer)
        return (Raw(orjson.dumps(fixed)), Done(usage or Usage()))


class NoStream(Collected):
    """What came instead of the stream that was asked for: an error, or nonsense."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked.framework, MAX_ERROR)
        self._asked = asked

    def read(self, body: bytes) -> Sequence[Event]:
        """Raise it."""
        self._asked.raise_error_in(self.decoded(body))
        raise nonsense(self.framework, "answered a whole body where a stream was asked for")


class StreamAnswer:
    """A streamed chat or completion.

    Args:
        asked: what it has to look like.
        relayable: whether the request leaves the frames as they are, if upstream writes them as expected.
    """

    def __init__(self, asked: Asked, *, relayable: bool) -> None:
        self._asked = asked
        self._relayable = relayable
        self._relaying = False
        self._repair = ChunkRepair(asked)
        self._sse = SSEDecoder()
        self._tail: list[bytes] = []  # of the frame that is not yet complete, while relaying or undecided
        self._tail_size = 0
        self._done = False

    def feed(self, data: bytes) -> Sequence[Event]:
        """Relay or repair a piece."""
        if self._done or not data:
            return ()
        out = self._relay(data) if self._relayable else self._parse(self._sse.feed(data))
        return (Raw(out),) if out else ()

    def close(self) -> Sequence[Event]:
        """End the stream, if upstream has."""
        out = b""
        if not self._done:
            rest = self._sse.feed(b"".join(self._tail)) + self._sse.close()
            out = self._parse(rest)
        self._repair.check_complete()
        return (Raw(out + DONE), Done(self._repair.usage or Usage()))

    def _relay(self, data: bytes) -> bytes:
        if b"\r" in data:  # never inside JSON, so a line end: then frames are not where we would look for them
            self._relayable = False
            data, self._tail = b"".join((*self._tail, data)), []
            return self._parse(self._sse.feed(data))
        if self._tail:
            # The end of a frame may itself be cut in two.
            if b"\n" not in data:
                return self._keep(data)
            data = b"".join((*self._tail, data))
            self._tail, self._tail_size = [], 0
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            return self._keep(data)
        complete, rest = data[:end], data[end:]
        self._tail, self._tail_size = ([rest] if rest else []), len(rest)
        if self._relaying and not any(needle in complete for needle in NEEDLES):
            return complete
        out = b"".join([self._frame(frame) for frame in complete.split(b"\n\n") if frame])
        if not self._relayable:  # as the first frame has shown
            rest, self._tail = b"".join(self._tail), []
            out += self._parse(self._sse.feed(rest))
        return out

    def _keep(self, data: bytes) -> bytes:
        self._tail.append(data)
        self._tail_size += len(data)
        if self._tail_size > MAX_EVENT:
            raise nonsense(self._asked.framework, f"sent an event larger than {MAX_EVENT} bytes")
        return b""

    def _frame(self, frame: bytes) -> bytes:
        """Handle one complete frame of a stream that may be relayed."""
        if self._done:
            return b""
        if self._relaying and not any(needle in frame for needle in NEEDLES):
            return frame + b"\n\n"
        payloads = SSEDecoder().feed(frame + b"\n\n")
        if payloads and not self._relaying and self._relayable:
            self._decide(payloads[0])
        return self._parse(payloads)

    def _decide(self, payload: bytes) -> None:
        """Look at the first frame: whether the others can go as they are."""
        model = self._asked.request.model
        # Compact JSON is what the needles are written for.
        expected = b'"model":%s' % orjson.dumps(model) if model else b'"model":"'
        self._relaying = expected in payload
        if not self._relaying:
            self._relayable = False

    def _parse(self, payloads: list[bytes]) -> bytes:
        pieces = []
        for payload in payloads:
            if self._done or not payload:
                continue
            if payload.startswith(b"[DONE]"):
                self._done = True
                continue
            try:
                chunk = orjson.loads(payload)
            except orjson.JSONDecodeError:
                chunk = None
            if not isinstance(chunk, dict):
                raise nonsense(self._asked.framework, "sent an event that is no JSON object")
            pieces += [b"data: %s\n\n" % orjson.dumps(fixed) for fixed in self._repair.repair(chunk)]
        return b"".join(pieces)


class AnswerDecoder:
    """A `Decoder`: the head chooses a `Body`; what the body raises becomes the one `Failed`.

    Args:
        framework, request: who answers, and what.
        good: makes the body of a good answer, given its headers.
    """

    def __init__(self, framework: str, request: Request, good: "MakeBody") -> None:
        self._framework = framework
        self._request = request
        self._good = good
        self._body: Body | None = None
        self._over = False

    def start(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Take the head."""
        if 200 <= status < 300:
            self._body = self._good(headers)
        else:
            self._body = ErrorBody(self._framework, self._request, status, headers)

    def feed(self, data: bytes) -> Sequence[Event]:
        """Take a piece of the body."""
        if self._over or self._body is None:
            return ()
        try:
            return self._body.feed(data)
        except GatewayError as error:
            self._over = True
            return (Failed(error),)

    def close(self) -> Sequence[Event]:
        """The body has ended."""
        if self._over or self._body is None:
            return ()
        self._over = True
        try:
            return self._body.close()
        except GatewayError as error:
            return (Failed(error),)


class MakeBody(Protocol):
    """What reads a good answer."""

    def __call__(self, headers: Mapping[bytes, bytes]) -> Body:
        """Return it, given the head."""


def answer_body(asked: Asked, headers: Mapping[bytes, bytes], *, relayable: bool) -> Body:
    """Choose what reads a chat's or a completion's answer."""
    request = asked.request
    if not request.stream:
        return WholeAnswer(asked)
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind and kind != b"text/event-stream":
        return NoStream(asked)
    return StreamAnswer(asked, relayable=relayable and asked.plain)

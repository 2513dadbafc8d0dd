"""A response's bytes on their way to meaning: what TGI's and TEI's answers have in common."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from illm.backends.remote.bodies import ErrorBody
from illm.backends.remote.tgi_errors import tgi_error
from illm.backends.remote.upstream_errors import nonsense
from illm.core.events import Event, Failed
from illm.core.requests import Request
from illm.core.sse import SSEDecoder
from illm.errors import GatewayError

MAX_ANSWER = 512 * 2**20


class Body(Protocol):
    """A body, once the head has said what it is.  Raises `GatewayError`; what `out` holds by then counts."""

    def feed(self, data: bytes, out: list[Event]) -> None:
        """Take a piece of it, and append what it completes."""

    def close(self, out: list[Event]) -> None:
        """It has ended."""


class MakeBody(Protocol):
    """Chooses what reads a good answer."""

    def __call__(self, headers: Mapping[bytes, bytes]) -> Body:
        """Return it, given the head."""


class BodyDecoder:
    """See `illm.backends.remote.upstream.Decoder`: what a body raises becomes the one `Failed`.

    Args:
        framework, request: who answers, and what.
        good: chooses what reads a good answer.
    """

    def __init__(self, framework: str, request: Request, good: MakeBody) -> None:
        self._about = (framework, request)
        self._good = good
        self._body: Body | None = None
        self._error: ErrorBody | None = None

    def start(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Take the head."""
        if 200 <= status < 300:
            self._body = self._good(headers)
        else:
            self._error = ErrorBody(lambda complaint: tgi_error(*self._about, status, complaint, headers))

    def feed(self, data: bytes) -> Sequence[Event]:
        """Take a piece of the body."""
        if self._error is not None:
            return self._error.feed(data)
        out: list[Event] = []
        if self._body is not None:
            try:
                self._body.feed(data, out)
            except GatewayError as error:
                self._body = None
                out.append(Failed(error))
        return out

    def close(self) -> Sequence[Event]:
        """The body has ended."""
        if self._error is not None:
            return self._error.close()
        out: list[Event] = []
        body, self._body = self._body, None
        if body is not None:
            try:
                body.close(out)
            except GatewayError as error:
                out.append(Failed(error))
        return out


class WholeBody:
    """A body that makes sense only as a whole; subclasses make the sense in `read`.

    Args:
        framework: who answers, for messages.
    """

    def __init__(self, framework: str) -> None:
        self._framework = framework
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, out: list[Event]) -> None:
        """Keep a piece."""
        self._size += len(data)
        if self._size > MAX_ANSWER:
            raise nonsense(self._framework, f"sent an answer larger than {MAX_ANSWER} bytes")
        self._pieces.append(data)

    def close(self, out: list[Event]) -> None:
        """Read it."""
        out += self.read(b"".join(self._pieces))

    def read(self, body: bytes) -> Sequence[Event]:
        """Make events of a whole body.  Raises `GatewayError`."""
        raise NotImplementedError


class StreamBody:
    """A body of server-sent events; subclasses make sense of each in `take`, and of the end in `end`."""

    def __init__(self) -> None:
        self._sse = SSEDecoder()

    def feed(self, data: bytes, out: list[Event]) -> None:
        """Take a piece."""
        for payload in self._sse.feed(data):
            self.take(payload, out)

    def close(self, out: list[Event]) -> None:
        """It has ended; TGI ends its last event properly, but a proxy's message may stand there alone."""
        for payload in self._sse.close():
            self.take(payload, out)
        self.end(out)

    def take(self, payload: bytes, out: list[Event]) -> None:
        """Append what one event says."""
        raise NotImplementedError

    def end(self, out: list[Event]) -> None:
        """Append what the end says; an answer that is not complete is an error."""
        raise NotImplementedError


def incomplete() -> GatewayError:
    """Return the error for an answer that just stops: to invent a reason would make truncation look like an end."""
    return nonsense("tgi", "ended before its answer was complete")

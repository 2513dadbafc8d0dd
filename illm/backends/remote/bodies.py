"""What reads the body of a response, once its head has said what it is; and the `Decoder` that chooses it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from illm.backends.remote.repair import JSON
from illm.backends.remote.upstream_errors import Complaint, nonsense, read_complaint, upstream_error
from illm.core.events import Event, Failed
from illm.core.requests import Request
from illm.errors import GatewayError

logger = logging.getLogger("illm.upstream")

MAX_ANSWER = 512 * 1024 * 1024
MAX_ERROR = 1024 * 1024

_MISUNDERSTANDING = (TypeError, ValueError, LookupError, AttributeError)
"""JSON of the right outline with something else inside than it should have.  It ends one request, nothing more."""


class Body(Protocol):
    """A response's body, once its head has said what it is.  Raises `GatewayError` where `Decoder` returns `Failed`."""

    def feed(self, data: bytes) -> Sequence[Event]:
        """Take a piece."""

    def close(self) -> Sequence[Event]:
        """The body has ended."""


class ErrorBody:
    """The body of an error: collected, then read, in whatever dialect.

    Args:
        make: makes the error of what the server said.
    """

    def __init__(self, make: Callable[[Complaint], GatewayError]) -> None:
        self._make = make
        self._body = bytearray()

    def feed(self, data: bytes) -> Sequence[Event]:
        """Keep what one can be expected to read."""
        self._body += data[: MAX_ERROR - len(self._body)]
        return ()

    def close(self) -> Sequence[Event]:
        """Return the failure that it is."""
        return (Failed(self._make(read_complaint(bytes(self._body)))),)


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


class MakeBody(Protocol):
    """What reads a good answer."""

    def __call__(self, headers: Mapping[bytes, bytes]) -> Body:
        """Return it, given the head."""


class AnswerDecoder:
    """A `Decoder`: the head chooses a `Body`; what the body raises becomes the one `Failed`.

    Args:
        framework, request: who answers, and what.
        good: makes the body of a good answer, given its headers.
    """

    def __init__(self, framework: str, request: Request, good: MakeBody) -> None:
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
            about = (self._framework, self._request, status)
            self._body = ErrorBody(lambda complaint: upstream_error(*about, complaint, headers))

    def feed(self, data: bytes) -> Sequence[Event]:
        """Take a piece of the body."""
        if self._over or self._body is None:
            return ()
        try:
            return self._body.feed(data)
        except (GatewayError, *_MISUNDERSTANDING) as error:
            return self._fail(error)

    def close(self) -> Sequence[Event]:
        """The body has ended."""
        if self._over or self._body is None:
            return ()
        try:
            happened = self._body.close()
        except (GatewayError, *_MISUNDERSTANDING) as error:
            return self._fail(error)
        self._over = True
        return happened

    def _fail(self, error: Exception) -> Sequence[Event]:
        self._over = True
        if isinstance(error, GatewayError):
            return (Failed(error),)
        logger.warning("the %s server's answer could not be understood", self._framework, exc_info=error)
        return (Failed(nonsense(self._framework, "answered something that could not be understood")),)

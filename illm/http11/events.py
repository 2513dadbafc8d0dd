"""What a request parser says: small frozen values, the same whichever engine is behind it.

Those that a request costs are tuples: a frozen dataclass takes five times as long to make.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Refusal(Exception):  # noqa: N818  # a verdict, not a malfunction
    """A request that must not be served; raised inside this package, answered as `Refused`.

    Args:
        status: the HTTP status to answer with.
        reason: one sentence for the client.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Head(NamedTuple):
    """A request has begun.

    `headers` have lowercase names and keep their order; `version` is `"1.0"` or `"1.1"`.  `length` is the body's size
    in bytes, `None` when it comes in chunks.  `keep_alive` is what the client asked for, `expect_continue` says that it
    waits for a `100 Continue` before it sends the body.
    """

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    length: int | None
    keep_alive: bool
    expect_continue: bool


class Body(NamedTuple):
    """A piece of the request's body, never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The request is complete.  Later bytes are held until `RequestParser.next_request`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer with `status` and close: nothing after this point of the stream can be trusted."""

    status: int
    reason: str


Event = Head | Body | End | Refused

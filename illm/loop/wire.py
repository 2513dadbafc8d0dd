"""Byte streams that call their owner: what came is handed over synchronously, what is written never waits.

A task that waits for bytes costs every message a wake-up, and a write that may wait costs one more.  So both ends of
the gateway are `Receiver`s, and a `Wire` has two drivers: asyncio's own transports (`asyncio_wire`), and any anyio byte
stream (`stream_wire`: trio, and streams that are no sockets).

The order of calls is the same with both: `received` any number of times, `ended` once, `closed` once and last.
"""

import socket
import struct
from contextlib import suppress
from typing import Any, Protocol

HIGH_WATER = 64 * 1024
"""Unsent bytes from which on `write` asks for a pause."""
READ_BYTES = 64 * 1024
"""The most that is read at once where we read ourselves."""

_RESET = struct.pack("ii", 1, 0)


class Receiver(Protocol):
    """The owner of one end of a stream.  Nothing here may raise or wait."""

    def received(self, data: bytes) -> None:
        """Take what has come, never empty.  Not called while paused, nor after `ended`."""

    def ended(self, broken: bool) -> None:
        """Nothing more will come: the other side closed its half properly, or the connection is `broken`."""

    def drained(self) -> None:
        """There is room again, after a `write` that returned False."""

    def closed(self) -> None:
        """The stream is gone, whoever wanted it; called once, last."""


class Wire(Protocol):
    """One open stream."""

    @property
    def socket(self) -> Any:
        """The socket below, for options and addresses; None where there is none."""

    def write(self, data: bytes) -> bool:
        """Send, or keep to be sent; after the end it is dropped.  False asks for a pause until `drained`."""

    @property
    def unsent(self) -> bool:
        """Whether bytes wait for the other side to read."""

    def pause(self) -> None:
        """Stop reading: the other side feels it.  Its leaving may go unnoticed meanwhile.  Idempotent."""

    def resume(self) -> None:
        """Read again.  Idempotent."""

    def end(self) -> None:
        """Close our half once everything is sent, where the stream has halves."""

    def close(self) -> None:
        """Close once everything is sent.  Idempotent."""

    def abort(self, *, reset: bool = False) -> None:
        """Close now and forget what was not sent; with `reset` so that the other side sees it broken.  Idempotent."""


def send_at_once(raw: Any) -> None:
    """Set a socket to send each write as it is."""
    # Both sides write a message and then wait: Nagle's algorithm could only delay it.
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):  # the other side has left: macOS tells it here
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset_on_close(raw: Any) -> None:
    """Set a socket to be reset, not ended, when it is closed."""
    if raw is not None:
        # ValueError: uvloop's word for a socket that is closed already.
        with suppress(OSError, ValueError, NotImplementedError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

"""An upstream connection that is played by hand: what was written is noted, and the test says what the server says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from illm.backends.remote import workers
from illm.backends.remote.server import Server
from illm.loop.wire import Receiver


@dataclass
class Hand:
    """A `Wire`, and its server."""

    receiver: Receiver
    written: list[bytes] = field(default_factory=list)
    paused: bool = False
    aborted: bool = False
    socket: Any = None
    unsent: bool = False

    def write(self, data: bytes) -> bool:
        self.written.append(data)
        return True

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def end(self) -> None: ...

    def close(self) -> None:
        self.abort()

    def abort(self, *, reset: bool = False) -> None:
        self.aborted = True

    def say(self, *pieces: bytes) -> None:
        """Have the server say something."""
        for piece in pieces:
            self.receiver.received(piece)


@dataclass
class Hands:
    """Every connection that was opened, in order.

    `first` is what a server says before it is asked, `closes` how it ends then; `meanwhile` runs as it comes about.
    """

    opened: list[Hand] = field(default_factory=list)
    first: bytes = b""
    closes: bool | None = None
    meanwhile: Callable[[], None] = field(default=lambda: None)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of connecting, for requests only: probes find the real server."""
        monkeypatch.setattr(workers, "connect", self.connect)

    async def connect(self, server: Server, receiver: Receiver) -> Hand:
        """Stand in for `connection.connect`."""
        hand = Hand(receiver)
        self.opened.append(hand)
        self.meanwhile()
        if self.first:
            hand.say(self.first)
        if self.closes is not None:
            receiver.ended(self.closes)
        return hand

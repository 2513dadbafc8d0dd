"""The engine behind the framing check, and what it must offer.

An engine parses exactly one message: the check cuts the stream for it, and hands on only bytes that are well framed.
So a fresh engine begins at the request line, and pipelining, limits and refusals are not its business.
"""

from collections.abc import Callable
from typing import Protocol

import h11

from illm.http11.events import Refusal


class Engine(Protocol):
    """One message's parser."""

    def head(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Take the complete head; return the header fields, names in lowercase.

        Raises:
            Refusal: if the engine does not understand what the check let pass.
        """
        ...

    def body(self, data: bytes) -> tuple[bytes, bool]:
        """Take bytes of the body as they were sent; return the decoded ones, and whether the message has ended.

        Raises:
            Refusal: as above.
        """
        ...


EngineFactory = Callable[[], Engine]


class H11Engine:
    """h11, a connection object a message: it is cheap to make, and no response has to be fed through it."""

    __slots__ = ("_connection",)

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER)

    def head(self, block: bytes) -> list[tuple[bytes, bytes]]:
        try:
            self._connection.receive_data(block)
            event = self._connection.next_event()
        except h11.RemoteProtocolError as exc:
            raise Refusal(400, "malformed request") from exc
        if not isinstance(event, h11.Request):
            raise Refusal(400, "malformed request")
        return list(event.headers)

    def body(self, data: bytes) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        try:
            if data:
                self._connection.receive_data(data)
            while isinstance(event := self._connection.next_event(), h11.Data):
                parts.append(bytes(event.data))
        except h11.RemoteProtocolError as exc:
            raise Refusal(400, "malformed request body") from exc
        return b"".join(parts), isinstance(event, h11.EndOfMessage)

"""h11 as an engine."""

import h11

from illm.http11.events import Refusal


class H11Engine:
    """One message: a connection object is cheap to make, and so no response has to be fed through it."""

    __slots__ = ("_connection",)

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER)

    def head(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """See `Engine`."""
        try:
            self._connection.receive_data(block)
            event = self._connection.next_event()
        except h11.RemoteProtocolError as exc:
            raise Refusal(400, "malformed request") from exc
        if not isinstance(event, h11.Request):
            raise Refusal(400, "malformed request")
        return list(event.headers)

    def body(self, data: bytes) -> tuple[bytes, bool]:
        """See `Engine`."""
        parts: list[bytes] = []
        try:
            if data:
                self._connection.receive_data(data)
            while isinstance(event := self._connection.next_event(), h11.Data):
                parts.append(bytes(event.data))
        except h11.RemoteProtocolError as exc:
            raise Refusal(400, "malformed request body") from exc
        return b"".join(parts), isinstance(event, h11.EndOfMessage)

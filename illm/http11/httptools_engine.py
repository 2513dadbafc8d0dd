"""httptools as an engine."""

import re

import httptools

from illm.http11.events import Refusal

_UPGRADE = re.compile(rb"(?i)(?<=\r\n)upgrade:[^\r]*+\r\n")


class HttptoolsEngine:
    """One message, read by a parser that calls back."""

    __slots__ = ("_ended", "_headers", "_parser", "_parts")

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._ended = False

    def head(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """See `Engine`."""
        upgrades = self._feed(block, "malformed request")
        headers, self._headers = self._headers, []  # what comes later is asked for by nobody
        if upgrades:
            # No other protocol is spoken here: the wish for one is ignored.  The library has taken the body for the
            # other protocol's, so that another parser must read it.
            self._parser, self._ended = httptools.HttpRequestParser(self), False
            self._feed(_UPGRADE.sub(b"", block), "malformed request")
        return headers

    def body(self, data: bytes) -> tuple[bytes, bool]:
        """See `Engine`."""
        if data:
            self._feed(data, "malformed request body")
        parts, self._parts = self._parts, []
        if self._ended:
            self._parser = None  # the two know each other: a cycle for the garbage collector
        return b"".join(parts), self._ended

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for each field."""
        self._headers.append((name.lower(), value.strip()))

    def on_body(self, data: bytes) -> None:
        """Called by the parser for each piece of the body."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser at the end."""
        self._ended = True

    def _feed(self, data: bytes, reason: str) -> bool:
        """Read on; return whether another protocol is asked for."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return True
        except httptools.HttpParserError as exc:
            raise Refusal(400, reason) from exc
        return False

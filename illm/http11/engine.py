"""Engines: second readers behind the framing check, and what they must offer.

The check yields everything, so no engine is needed.  An operator who trusts two readers more than one puts a library
behind it: a message that the two read differently is refused.  An engine reads exactly one message: the check cuts the
stream for it, and hands on only bytes that are well framed.  So a fresh engine begins at the request line, and
pipelining, limits and most refusals are not its business.
"""

from collections.abc import Callable
from typing import Protocol

ENGINES = ("auto", "h11", "httptools")
"""What may be asked for.  `auto` is the fastest: the check alone."""


class Engine(Protocol):
    """One message's reader."""

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


def find_engine(name: str) -> EngineFactory | None:
    """Return what makes the second reader of that name, one of `ENGINES`; None where there is none.

    Raises:
        ImportError: its library is not installed.
    """
    if name == "h11":
        from illm.http11.h11_engine import H11Engine

        return H11Engine
    if name == "httptools":
        from illm.http11.httptools_engine import HttptoolsEngine

        return HttptoolsEngine
    return None

"""The seam between moving bytes and knowing what they mean.

A dialect says what to send for a request and what the answer's bytes amount to; it never waits and holds no socket.  A
connection worker sends, receives, keeps the deadlines, and knows none of it.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from illm.core.capabilities import Capability
from illm.core.events import Event
from illm.core.requests import Request
from illm.core.values import value


@value(frozen=True, slots=True)
class Outgoing:
    """One upstream request.

    Args:
        method: `POST`, say.
        path: below the base URL, with a leading slash (`/v1/chat/completions`).
        headers: beyond `host`, `content-length`, `authorization` and `connection`, which the connection writes.
        body: complete.
    """

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


class Decoder(Protocol):
    """One upstream response, from bytes to events.  Made anew for every request."""

    def start(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Take the head; header names are in lower case."""

    def feed(self, data: bytes) -> Sequence[Event]:
        """Take a piece of the body, cut anywhere, and return what it completes.

        Never raises for what the upstream said: nonsense becomes one `Failed`, after which nothing follows.  A `Done`
        here says that nobody wants the rest of the body: the connection is closed, and the server stops its work.
        """

    def close(self) -> Sequence[Event]:
        """The body has ended properly; return what is left, closed by `Done` or `Failed`.

        A message that is complete in framing but not in meaning (no finish reason, no terminator) is a `Failed`.
        """


class Dialect(Protocol):
    """How one kind of server is spoken to.

    Attributes:
        framework: its name.
        capabilities: what it offers (a particular server may lack some of it, and then answers an error).
        supported: request fields beyond the plain ones that it honours, as `openai.unsupported` takes them.
        fans_out: whether `n` choices or several prompts must be asked for one by one.
        probe_path: a GET that costs no generation and answers 200 while the server is well.
        models_path: a GET that lists models.
        most_inputs: how many texts it embeds at once, where there is such a limit (it may be left out).
    """

    framework: str
    capabilities: frozenset[Capability]
    supported: frozenset[str]
    fans_out: bool
    probe_path: str
    models_path: str

    def outgoing(self, request: Request) -> Outgoing:
        """Translate a request.

        Raises:
            GatewayError: it asks for what this server cannot honour.
        """

    def decoder(self, request: Request) -> Decoder:
        """Return what will read the answer to `request`."""

    def models(self, body: bytes) -> Sequence[str]:
        """Read the answer of `models_path`; an empty sequence where it makes no sense."""

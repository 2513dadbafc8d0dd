"""One upstream server as everything here knows it: where it is, how it is trusted, and what every request carries."""

import re
import ssl
from dataclasses import dataclass, field

from illm.backends.remote.address import Address
from illm.backends.remote.upstream import Outgoing
from illm.errors import GatewayError
from illm.http11.client_request import encode_fields, encode_head, framed

_HEADS = 64
"""How many heads of requests are kept, encoded; they differ in the path, mostly."""


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """One server.

    Args:
        framework: the backend it belongs to, for messages.
        number: which replica it is, from 0; what clients are shown instead of an address.
        address: where it is.
        tls: whom to trust, if it speaks TLS.
        key: the bearer key it wants, if any; never logged.
    """

    framework: str
    number: int
    address: Address
    tls: ssl.SSLContext | None = None
    key: str | None = field(default=None, repr=False)
    _fixed: bytes = field(init=False, repr=False)
    _heads: dict[tuple[object, ...], bytes] = field(init=False, repr=False, default_factory=dict)

    def hide_in(self, error: GatewayError) -> GatewayError:
        """Take our key and the server's name out of what it said, wherever a client might read them."""
        for secret in filter(None, (self.key, self.address.host)):
            error.message = re.sub(rf"(?<![\w.-]){re.escape(secret)}(?![\w-])", "[hidden]", error.message)
        error.args = (error.message,)
        return error

    def __post_init__(self) -> None:
        """Encode once what every request repeats."""
        fields = [
            (b"host", self.address.authority),
            (b"user-agent", b"illm"),
            # Relayed bytes go out as they came in, so they must come in plain.
            (b"accept-encoding", b"identity"),
        ]
        if self.key is not None:
            fields.append((b"authorization", b"Bearer " + self.key.encode("latin-1")))
        object.__setattr__(self, "_fixed", encode_fields(fields))

    def __str__(self) -> str:
        """Return it for the log."""
        return f"{self.framework} replica {self.number} ({self.address})"

    def encode(self, outgoing: Outgoing) -> tuple[bytes, ...]:
        """Return a request as it goes over the wire, in the pieces to write.

        Raises:
            RequestError: it could not be sent safely.
        """
        key = outgoing.method, outgoing.path, outgoing.headers
        head = self._heads.get(key)
        if head is None:
            head = encode_head(outgoing.method, self.address.target(outgoing.path), self._fixed, outgoing.headers)
            if len(self._heads) >= _HEADS:  # a form's boundary is another one each time
                self._heads.clear()
            self._heads[key] = head
        return framed(head, outgoing.body)


def trust(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that verifies: against the system's certificates, or those of a file instead.

    Raises:
        OSError: the file cannot be read, or holds no certificates (`ssl.SSLError` is one).
    """
    context = ssl.create_default_context(cafile=ca_file)
    # Python's default takes a connection that was cut for a proper end; an answer without a length would seem complete.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    context.set_alpn_protocols(["http/1.1"])
    return context

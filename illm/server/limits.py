"""What a client may ask of the server, in sizes, times and numbers."""

from dataclasses import dataclass

from illm.http11 import MessageLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one server.  Sizes are bytes, times are seconds and are watched coarsely (see `tick`).

    Args:
        header_bytes: request line and header fields.
        headers: number of header fields.
        target_bytes: the request target.
        body_bytes: a request's body.
        header_timeout: from a head's first byte (or the connection's beginning) to its last.
        keep_alive: how long a connection may wait for its next request.
        body_timeout: how long a request's body may pause while the application waits for it.
        write_timeout: how long the client may take no byte of a response.
        drain: how long running requests may take after a graceful stop has begun; also the lifespan's shutdown.
        connections: at once. Above: 503 and close.
        backlog: connections the kernel may hold for us.
        retry_after: what that 503 tells the client.
        body_buffer: body bytes held for an application that does not read them; the socket is not read meanwhile.
        pipeline_buffer: bytes of later requests held while one runs; as above.
        unread_body: how much of a body that the application left unread is read and thrown away to keep a connection.
        write_bytes: how much is written in one go; `write_timeout` is for each.
    """

    header_bytes: int = 32 * 1024
    headers: int = 128
    target_bytes: int = 8 * 1024
    body_bytes: int = 64 * 1024 * 1024
    header_timeout: float = 10.0
    keep_alive: float = 75.0
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    drain: float = 30.0
    connections: int = 4096
    backlog: int = 2048
    retry_after: int = 1
    body_buffer: int = 256 * 1024
    pipeline_buffer: int = 64 * 1024
    unread_body: int = 64 * 1024
    write_bytes: int = 256 * 1024

    @property
    def message(self) -> MessageLimits:
        """What of it a parser enforces."""
        return MessageLimits(
            head_bytes=self.header_bytes,
            headers=self.headers,
            target_bytes=self.target_bytes,
            body_bytes=self.body_bytes,
        )

    @property
    def tick(self) -> float:
        """Seconds between two looks at the deadlines: one late look costs little, a timer a write costs much."""
        shortest = min(self.header_timeout, self.keep_alive, self.body_timeout, self.write_timeout)
        return min(0.5, max(0.01, shortest / 8))

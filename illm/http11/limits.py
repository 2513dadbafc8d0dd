"""How large a message may be."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """Limits on one request, all in bytes but `headers`.

    Args:
        head_bytes: request line and header fields together, the empty line included; also the trailers'. Above: 431.
        headers: number of header fields. Above: 431.
        target_bytes: the request target. Above: 414.
        body_bytes: the body after chunks are joined. Above: 413.
        chunk_ext_bytes: all chunk extensions of one body; they carry nothing anybody uses. Above: 400.
    """

    head_bytes: int = 32 * 1024
    headers: int = 128
    target_bytes: int = 8 * 1024
    body_bytes: int = 64 * 1024 * 1024
    chunk_ext_bytes: int = 4 * 1024

"""Streams that are open and silent: what they cost is memory, and nothing else."""

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from benchmarks.systems import Running

_CHUNK = 65536


@contextmanager
def held(running: Running, count: int, patience: float = 120.0) -> Iterator[int]:
    """Hold streams open while the block lasts, each from its first token on.

    Args:
        running: what is asked; its upstream should fall silent after the first token.
        count: how many streams.
        patience: seconds that each may take.

    Yields:
        How many of them did speak.
    """
    request = _request(running)
    where = urlsplit(running.url)
    with ExitStack() as stack:
        streams = []
        for _ in range(count):
            stream = socket.create_connection((where.hostname, where.port), patience)
            stack.enter_context(stream)
            stream.sendall(request)
            streams.append(stream)
        yield sum(map(_speaks, streams))


def _request(running: Running) -> bytes:
    messages: Sequence[dict[str, str]] = [{"role": "user", "content": "Tell me a long story."}]
    body = json.dumps({"model": running.model, "messages": messages, "stream": True}).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: {urlsplit(running.url).netloc}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in running.headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _speaks(stream: socket.socket) -> bool:
    """Read until the first event; whether the status was 200 and one came."""
    seen = b""
    try:
        while b"data:" not in seen:
            chunk = stream.recv(_CHUNK)
            if not chunk:
                return False
            seen += chunk
    except TimeoutError:
        return False
    return seen.startswith(b"HTTP/1.1 200")

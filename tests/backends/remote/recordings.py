"""Recorded exchanges with real servers, taken apart: what was asked, and the answer's head and body as it came."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

WIRE = Path(__file__).parents[2] / "wire"


class Exchange(NamedTuple):
    """One recorded exchange.

    `sent` and `wire` are the request's and the response's bytes as they were, `asked` and `pieces` their bodies; the
    latter without its transfer coding, one piece a chunk.  Without a response `wire` is empty and `status` 0.
    """

    server: str
    case: str
    method: str
    path: str
    sent: bytes
    asked: bytes
    wire: bytes
    status: int
    headers: dict[bytes, bytes]
    pieces: list[bytes]

    @property
    def body(self):
        """The body in one piece."""
        return b"".join(self.pieces)

    @property
    def streamed(self):
        """Whether it is a stream of events."""
        return self.headers.get(b"content-type", b"").startswith(b"text/event-stream")


@cache
def read(server, case):
    """Read one exchange."""
    sent = (WIRE / server / f"{case}.req").read_bytes()
    answer = WIRE / server / f"{case}.resp"
    wire = answer.read_bytes() if answer.exists() else b""
    request_head, _, asked = sent.partition(b"\r\n\r\n")
    method, path, _ = request_head.decode().split(" ", 2)
    if not wire:
        return Exchange(server, case, method, path, sent, asked, wire, 0, {}, [])
    head, _, body = wire.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    pieces = list(_chunks(body)) if headers.get(b"transfer-encoding") == b"chunked" else [body]
    return Exchange(server, case, method, path, sent, asked, wire, int(status.split()[1]), headers, pieces)


def recorded(*servers):
    """Name every exchange, with some servers or with all."""
    folders = [WIRE / server for server in servers] or sorted(path for path in WIRE.iterdir() if path.is_dir())
    return [(folder.name, file.stem) for folder in folders for file in sorted(folder.glob("*.req"))]


def cases(*servers, paths):
    """Name every exchange with some servers on some paths."""
    return [(server, case) for server, case in recorded(*servers) if read(server, case).path in paths]


def events(stream):
    """Decode a stream's payloads; the last must be `[DONE]`."""
    datas = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: ")]
    assert datas.pop() == b"[DONE]"
    return [json.loads(data) for data in datas]


def _chunks(body):
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        yield body[:length]
        body = body[length + 2 :]

"""Recorded exchanges with real servers, taken apart: what was asked, and the answer's head and body as it came."""

import json
from pathlib import Path
from typing import NamedTuple

WIRE = Path(__file__).parents[2] / "wire"


class Exchange(NamedTuple):
    """One recorded exchange; `pieces` is the body without its transfer coding, one piece a chunk."""

    server: str
    case: str
    path: str
    asked: bytes
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


def read(server, case):
    """Read one exchange."""
    request_head, _, asked = (WIRE / server / f"{case}.req").read_bytes().partition(b"\r\n\r\n")
    head, _, body = (WIRE / server / f"{case}.resp").read_bytes().partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    pieces = list(_chunks(body)) if headers.get(b"transfer-encoding") == b"chunked" else [body]
    path = request_head.split(b" ", 2)[1].decode()
    return Exchange(server, case, path, asked, int(status.split()[1]), headers, pieces)


def cases(*servers, paths):
    """Name every exchange with some servers on some paths."""
    stems = [(server, file.stem) for server in servers for file in sorted((WIRE / server).glob("*.req"))]
    return [(server, case) for server, case in stems if read(server, case).path in paths]


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

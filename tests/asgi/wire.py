"""A client that is nothing but a socket, for what real clients hide: when bytes arrive, and how a response ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from asgi.driver import chat


class Wire:
    """One connection with one request on it; leaving its block leaves the server."""

    def __init__(self, stream) -> None:
        self._stream = stream
        self.received = b""

    async def until(self, text: str) -> None:
        """Read until that has arrived."""
        while text.encode() not in self.received:
            self.received += await self._stream.receive()

    async def to_the_end(self) -> bool:
        """Read all there is; return whether the response ended as HTTP says (chunked ones are meant)."""
        try:
            while not self.received.endswith(b"\r\n0\r\n\r\n"):
                self.received += await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return False
        return True


@asynccontextmanager
async def asking(address: tuple[str, int], prompt: str, **more) -> AsyncIterator[Wire]:
    """Ask for a chat."""
    body = chat(prompt, **more)["body"]
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    async with await anyio.connect_tcp(*address) as stream:
        await stream.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        yield Wire(stream)

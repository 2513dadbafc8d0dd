"""The official client in front of ILLM in front of a strict server, and how it is asked here."""

import gc
from contextlib import asynccontextmanager

import pytest

from backends.remote.serving import serving

openai = pytest.importorskip("openai", reason="the official client is in the extra `test`")

LEFT_BEHIND = pytest.mark.filterwarnings(r"ignore:Async generator .(openai|httpx|httpcore):ResourceWarning")
"""The client leaves generators of its streams to the garbage collector, even of those read to the end: trio minds."""

HI = [{"role": "user", "content": "hi"}]
TEXT = " Hello there!"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "f"}}
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "


@asynccontextmanager
async def gateway(server, **said):
    """Yield a client of a gateway in front of a server."""
    said = {"framework": server.kind, f"{server.kind}_base_url": (server.url,), **said}
    async with (
        serving(**said) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        yield client
        gc.collect()  # what the client left behind belongs to this test


async def chat(client, **fields):
    """Ask for a chat."""
    return await client.chat.completions.create(**{"model": "m1", "messages": HI, **fields})


async def streamed(client, **fields):
    """Ask for a chat, and return all chunks."""
    return [chunk async for chunk in await chat(client, stream=True, **fields)]


def choices(chunks):
    """Return the choices of all chunks, in order."""
    return [choice for chunk in chunks for choice in chunk.choices]


async def transcribe(client, **fields):
    """Ask for a transcript."""
    return await client.audio.transcriptions.create(**{"model": "m1", "file": ("a.wav", WAV), **fields})

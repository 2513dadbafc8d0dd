"""The longest pause of chat streams: alone, beside an hour of speech, and beside a list of ten thousand texts.

    python -m benchmarks.beside_streams FILE [--streams 3] [--seconds 20] [--output FILE]

Needs an environment with the extras `local`, `demo` and `audio`.  FILE is speech; an hour is made of it.  All models
are the packaged ones, in one process.  The long request is cancelled when the streams have been watched long enough.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.embedding_rates import texts
from benchmarks.processes import HOST, await_answer, free_port, started
from benchmarks.speech_rates import repeated

HOUR = 3600.0
INPUTS = 10_000

Beside = Callable[[], Awaitable[object]]


async def _pauses(client: httpx.AsyncClient, number: int, until: float) -> list[float]:
    """Return the milliseconds between the chunks of one client's chats, which follow each other until the time."""
    found: list[float] = []
    while time.perf_counter() < until:
        message = {"role": "user", "content": f"Tell me a very long story about {number} ships, day by day."}
        body = {"messages": [message], "max_tokens": 2000, "stream": True, "model": "demo"}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                raise RuntimeError(f"{response.status_code}: {(await response.aread())[:500]!r}")
            before = None
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    now = time.perf_counter()
                    if before is not None:
                        found.append(1e3 * (now - before))
                    before = now
                    if now >= until:
                        break
    return found


async def watch(client: httpx.AsyncClient, streams: int, seconds: float, beside: Beside | None) -> dict[str, float]:
    """Return how streams flowed, in milliseconds between two chunks.

    Args:
        client: of the server.
        streams: how many run at once.
        seconds: for how long.
        beside: a long request, begun before them; it has to outlast them.

    Raises:
        RuntimeError: an answer was an error, or the long request ended early.
    """
    busy = None if beside is None else asyncio.ensure_future(beside())
    until = time.perf_counter() + seconds
    flows = await asyncio.gather(*(_pauses(client, number, until) for number in range(streams)))
    if busy is not None:
        if busy.done():
            raise RuntimeError(f"the long request has ended: {busy.exception() or busy.result()}")
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
    pauses = sorted(pause for flow in flows for pause in flow)
    return {
        "chunks_per_s": len(pauses) / seconds,
        "median_ms": statistics.median(pauses),
        "p99_ms": pauses[int(0.99 * len(pauses))],
        "longest_ms": pauses[-1],
    }


async def measure(url: str, recording: bytes, streams: int, seconds: float) -> dict[str, Any]:
    """Return what `watch` saw alone, beside speech, beside embeddings, and alone again."""
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:

        async def hear() -> str:
            file = ("hour.wav", recording)
            answer = await client.post(
                "/v1/audio/transcriptions", files={"file": file}, data={"model": "whisper-tiny.en"}
            )
            return answer.text[:300]

        async def embed() -> str:
            inputs = [text for seed in range(INPUTS // 256 + 1) for text in texts(seed)][:INPUTS]
            answer = await client.post("/v1/embeddings", json={"input": inputs, "model": "all-MiniLM-L6-v2"})
            return answer.text[:300]

        ways: dict[str, Beside | None] = {
            "alone": None,
            "beside_speech": hear,
            "beside_list": embed,
            "alone_again": None,
        }
        await watch(client, streams, 3.0, None)
        return {name: await watch(client, streams, seconds, way) for name, way in ways.items()}


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("options", nargs="*", help="further options of the server, after --")
    given = parser.parse_args()
    recording = repeated(given.file, HOUR)
    port = free_port()
    models = ["--model", "demo", "--embedding-model", "demo", "--audio-model", "demo"]
    limits = ["--max-body-bytes", str(1 << 30), "--max-audio-bytes", str(1 << 29)]
    listen = ["--host", HOST, "--port", str(port), "--log-level", "error"]
    command = [sys.executable, "-m", "illm.server", "transformers", *models, *listen, *limits, *given.options]
    with started("illm", command) as server:
        url = f"http://{HOST}:{port}"
        await_answer(server, f"{url}/healthz")
        found = json.dumps(asyncio.run(measure(url, recording, given.streams, given.seconds)), indent=1)
    if given.output is not None:
        given.output.write_text(found + "\n", encoding="utf-8")
    sys.stdout.write(found + "\n")


if __name__ == "__main__":
    main()

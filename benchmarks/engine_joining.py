"""What a prompt costs: whoever sends it, whoever sends its beginning again, and those who are answered beside it."""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from benchmarks.systems import Running

_WORDS = "time year people way day man thing woman life child world school state family student group country problem"
_PATIENCE = 300.0
_BEFORE = 12
"""Pieces of text that each stream has had before somebody joins: the pauses between them are its usual ones."""


def passage(words: int, seed: int) -> str:
    """Return a text of so many words, each of them a token to most tokenizers, that nobody has sent before."""
    dice, known = random.Random(seed), _WORDS.split()
    return " ".join(dice.choice(known) for _ in range(words))


@dataclass
class Heard:
    """A stream; times are `time.perf_counter()`."""

    began: float
    at: list[float] = field(default_factory=list)

    @property
    def ttft_ms(self) -> float:
        return 1e3 * (self.at[0] - self.began)


def again(running: Running, words: int, seed: int) -> dict[str, float]:
    """Send a prompt of so many words, then two that begin with it, one after the other; return what each waited for.

    Raises:
        RuntimeError: an answer had no text.
    """

    async def main() -> list[Heard]:
        shared = passage(words, seed)
        async with _client(running) as client:
            return [await _listen(client, running, f"{shared} {passage(8, 10**6 + seed + n)}", 4) for n in range(3)]

    first, *later = asyncio.run(main())
    rest = statistics.median(heard.ttft_ms for heard in later)
    return {"first_ttft_ms": first.ttft_ms, "again_ttft_ms": rest, "times_shorter": first.ttft_ms / rest}


def joining(running: Running, streams: int, words: int, seed: int) -> dict[str, float]:
    """Let a prompt of so many words join streams that are being answered.

    Returns:
        Its time to the first token, the longest pause of any stream until then, and their median pause before.

    Raises:
        RuntimeError: an answer had no text.
    """

    async def main() -> tuple[Heard, list[Heard]]:
        settled = asyncio.Semaphore(0)
        heard: list[Heard] = []

        async def speak(client: httpx.AsyncClient, number: int) -> None:
            def on_text(one: Heard) -> None:
                if len(one.at) == _BEFORE:
                    heard.append(one)
                    settled.release()

            await _listen(client, running, passage(30, seed + 1 + number), 400, on_text)

        async with _client(running) as client, asyncio.TaskGroup() as tasks:
            speaking = [tasks.create_task(speak(client, number)) for number in range(streams)]
            for _ in speaking:
                await settled.acquire()
            newcomer = await _listen(client, running, passage(words, seed), 1)
            for task in speaking:
                task.cancel()
        return newcomer, heard

    newcomer, heard = asyncio.run(main())
    usual: list[float] = []
    during: list[float] = []
    for one in heard:
        for before, after in zip(one.at, one.at[1:], strict=False):
            (usual if after < newcomer.began else during).append(1e3 * (after - before))
    return {
        "ttft_ms": newcomer.ttft_ms,
        "longest_pause_ms": max(during, default=0.0),
        "usual_pause_ms": statistics.median(usual),
    }


def _client(running: Running) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    headers = dict(running.headers)
    return httpx.AsyncClient(base_url=running.url, timeout=_PATIENCE, limits=limits, trust_env=False, headers=headers)


async def _listen(
    client: httpx.AsyncClient,
    running: Running,
    prompt: str,
    tokens: int,
    on_text: Callable[[Heard], object] = lambda heard: None,
) -> Heard:
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    if running.model:
        body["model"] = running.model
    heard = Heard(time.perf_counter())
    async with client.stream("POST", "/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {") and any(one.get("text") for one in json.loads(line[6:]).get("choices", ())):
                heard.at.append(time.perf_counter())
                on_text(heard)
    if not heard.at:
        raise RuntimeError(f"{running.name}: no text, status {response.status_code}")
    return heard

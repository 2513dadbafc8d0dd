"""What is asked of an engine: streams of greedy completions, and batches of texts to embed."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.systems import Running

PROMPTS = (
    "The history of the Roman Empire begins with",
    "In the beginning of the twentieth century, physics",
    "A good recipe for bread needs",
    "The city of London is known for",
    "Once upon a time in a small village there lived",
    "The most important thing about programming is",
    "Water is a chemical substance that",
    "The theory of evolution explains how",
)
_PATIENCE = 300.0
_LONG = 400
"""Tokens of a stream that is there to keep an engine busy."""


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Stream:
    """One completion; times are `time.perf_counter()`.

    Args:
        text: all of it.
        began: when the request was sent.
        spoke: when the first text came; 0 if none did.
        ended: when the answer was over.
        fault: what went wrong; empty where nothing did.
    """

    text: str
    began: float
    spoke: float
    ended: float
    fault: str = ""


def write(running: Running, count: int, tokens: int) -> list[Stream]:
    """Run so many streams at once, each of so many tokens at most."""
    return asyncio.run(_write(running, count, tokens))


def embed(running: Running, texts: int, seconds: float) -> tuple[int, float, list[float]]:
    """Embed batch after batch.

    Args:
        running: who does it.
        texts: in each batch, no two alike.
        seconds: for how long batches are begun.

    Returns:
        How many texts were embedded, how many seconds that took, and the seconds of each batch.

    Raises:
        RuntimeError: a batch was refused.
    """
    done, took = 0, []
    with httpx.Client(
        base_url=running.url, timeout=_PATIENCE, trust_env=False, headers=dict(running.headers)
    ) as client:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            inputs = [f"{done + number}. {PROMPTS[number % len(PROMPTS)]} much." for number in range(texts)]
            at = time.perf_counter()
            answer = client.post("/v1/embeddings", json=_named(running, {"input": inputs}))
            if answer.status_code != 200 or len(answer.json()["data"]) != texts:
                raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")
            took.append(time.perf_counter() - at)
            done += texts
        return done, time.perf_counter() - began, took


@contextmanager
def decoding(running: Running, count: int) -> Iterator[list[Stream]]:
    """Keep an engine decoding while the block lasts: whenever a stream ends, another begins.

    Yields:
        The streams that have ended so far; none does by itself once the block is left.  The block begins when every
        stream has spoken.
    """
    done: list[Stream] = []
    ready = threading.Event()
    leave: list[Callable[[], object]] = []

    async def main() -> None:
        loop, speaking, over = asyncio.get_running_loop(), asyncio.Semaphore(0), asyncio.Event()
        leave.append(lambda: loop.call_soon_threadsafe(over.set))

        async def one_after_the_other(client: httpx.AsyncClient, prompt: str) -> None:
            while not (done and done[-1].fault):
                done.append(await _stream(client, running, prompt, _LONG, speaking.release))
            speaking.release()  # it failed: nobody needs to wait for its word

        async with _client(running) as client, asyncio.TaskGroup() as tasks:
            mine = [tasks.create_task(one_after_the_other(client, prompt)) for prompt in _prompts(count)]
            for _ in mine:
                await speaking.acquire()
            ready.set()
            await over.wait()
            for task in mine:
                task.cancel()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    try:
        if not ready.wait(_PATIENCE):
            raise RuntimeError(f"{running.name}: {count} streams did not speak")
        yield done
    finally:
        for call in leave:
            call()
        thread.join()


def _client(running: Running) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(
        base_url=running.url, timeout=_PATIENCE, limits=limits, trust_env=False, headers=dict(running.headers)
    )


def _prompts(count: int) -> list[str]:
    return [PROMPTS[number % len(PROMPTS)] for number in range(count)]


async def _write(running: Running, count: int, tokens: int) -> list[Stream]:
    async with _client(running) as client:
        return await asyncio.gather(*(_stream(client, running, prompt, tokens) for prompt in _prompts(count)))


async def _stream(
    client: httpx.AsyncClient, running: Running, prompt: str, tokens: int, on_speech: Callable[[], object] = _nothing
) -> Stream:
    body = _named(running, {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True})
    text, spoke, ended_well = [], 0.0, False
    began = time.perf_counter()
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                return Stream("", began, 0.0, time.perf_counter(), f"status {response.status_code}")
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                for choice in json.loads(line[6:]).get("choices", ()):
                    if choice.get("text"):
                        if not spoke:
                            spoke = time.perf_counter()
                            on_speech()
                        text.append(choice["text"])
                    ended_well = ended_well or bool(choice.get("finish_reason"))
    except httpx.HTTPError as error:
        return Stream("".join(text), began, spoke, time.perf_counter(), type(error).__name__)
    return Stream("".join(text), began, spoke, time.perf_counter(), "" if ended_well else "no finish")


def _named(running: Running, body: dict[str, Any]) -> dict[str, Any]:
    """Name the model, where one has to be named."""
    return {"model": running.model, **body} if running.model else body

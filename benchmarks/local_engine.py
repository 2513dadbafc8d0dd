"""Tokens per second and time to first token of the local engine, beside `transformers serve`, in one run.

    python -m benchmarks.local_engine --model-dir DIR --peer ENV/bin/transformers --rounds 3

Every system serves the same safetensors directory on loopback, one at a time (two engines on the same cores would
measure each other), in rounds A B C A B C.  Requests are streamed raw completions, greedy; tokens are re-counted with
the model's tokenizer from the text that arrived.  While streams run, `/healthz` (or `/health`) is asked ten times a
second: its latency is what the engine does to the event loop.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

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


@dataclass
class System:
    """One server under test: how to start it, where its health is, what it calls the model."""

    name: str
    command: Sequence[str]
    health: str
    model: str


@dataclass
class Sample:
    """One batch of concurrent streams."""

    tokens_per_second: float
    ttft: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)


async def stream(client: httpx.AsyncClient, model: str, prompt: str, tokens: int) -> tuple[str, float, float, float]:
    """Run one stream; return its text, and when it began, first spoke and ended."""
    began = time.perf_counter()
    first = 0.0
    text = ""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                for choice in json.loads(line[6:]).get("choices", ()):
                    text += choice["text"] or ""
                    first = first or time.perf_counter()
    return text, began, first, time.perf_counter()


async def ask_health(client: httpx.AsyncClient, path: str, latencies: list[float]) -> None:
    """Time the health path until cancelled."""
    while True:
        began = time.perf_counter()
        await client.get(path)
        latencies.append(time.perf_counter() - began)
        await asyncio.sleep(0.1)


async def measure(system: System, port: int, streams: int, tokens: int, count) -> Sample:  # noqa: ANN001
    """Run `streams` at once and weigh what came."""
    sample = Sample(0.0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
        prober = asyncio.create_task(ask_health(client, system.health, sample.loop))
        prompts = [PROMPTS[index % len(PROMPTS)] for index in range(streams)]
        results = await asyncio.gather(*(stream(client, system.model, prompt, tokens) for prompt in prompts))
        prober.cancel()
    span = max(ended for *_, ended in results) - min(began for _, began, *_ in results)
    sample.tokens_per_second = sum(count(text) for text, *_ in results) / span
    sample.ttft = [first - began for _, began, first, _ in results]
    return sample


async def ready(port: int, path: str, limit: float = 300) -> None:
    """Wait until the server answers 200."""
    async with httpx.AsyncClient() as client:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            try:
                if (await client.get(f"http://127.0.0.1:{port}{path}")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.3)
    raise SystemExit("the server did not come up")


async def one_round(system: System, port: int, streams: Sequence[int], tokens: int, count) -> dict[int, Sample]:  # noqa: ANN001
    """Start a system, warm it up, measure it, stop it."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    log = Path(tempfile.gettempdir(), f"bench-{system.name.replace(' ', '-')}.log").open("w")  # noqa: ASYNC230, SIM115
    process = subprocess.Popen(system.command, stdout=log, stderr=log, env=environment)  # noqa: ASYNC220
    try:
        await ready(port, system.health)
        await measure(system, port, 1, 8, count)
        return {number: await measure(system, port, number, tokens, count) for number in streams}
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def spread(values: Sequence[float], unit: float = 1.0, digits: int = 1) -> str:
    """Format a median with its range."""
    middle, low, high = (
        f"{value * unit:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({low} to {high})"


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-dir", required=True)
    parser.add_argument("--peer", help="a `transformers` command of an environment with the serving extra")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model_dir, local_files_only=True)

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    name = Path(options.model_dir).name
    where = ("--host", "127.0.0.1", "--port", str(options.port))
    ours = (sys.executable, "-m", "illm.server", "transformers", "--model", options.model_dir, *where)
    systems = [System("illm", ours, "/healthz", name)]
    if options.peer:
        theirs = (options.peer, "serve", options.model_dir, *where, "--device", "cpu", "--dtype", "bfloat16")
        systems.append(System("transformers serve", theirs, "/health", options.model_dir))
        batched = (*theirs, "--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "256")
        systems.append(System("transformers serve, continuous batching", batched, "/health", options.model_dir))
    samples: dict[tuple[str, int], list[Sample]] = {}
    for number in range(options.rounds):
        for system in systems:
            got = asyncio.run(one_round(system, options.port, options.streams, options.tokens, count))
            for streams, sample in got.items():
                samples.setdefault((system.name, streams), []).append(sample)
                print(
                    f"round {number + 1}: {system.name}, {streams}: {sample.tokens_per_second:.1f} tokens/s",
                    file=sys.stderr,
                )
    print("| system | streams | tokens/s | TTFT, ms | health latency p50 / p99, ms |\n|---|---|---|---|---|")
    for (system_name, streams), runs in samples.items():
        loop = sorted(latency for run in runs for latency in run.loop)
        p50, p99 = loop[len(loop) // 2] * 1000, loop[int(len(loop) * 0.99)] * 1000
        rate = spread([run.tokens_per_second for run in runs])
        ttft = spread([statistics.median(run.ttft) for run in runs], 1000, 0)
        print(f"| {system_name} | {streams} | {rate} | {ttft} | {p50:.1f} / {p99:.1f} |")


if __name__ == "__main__":
    main()

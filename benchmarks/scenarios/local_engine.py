"""The local engine beside others, over the same model on the same cores; and what it does to those who only pass by."""

import statistics
import time
from collections.abc import Iterator, Sequence

import httpx

from benchmarks.engine_joining import again, joining
from benchmarks.engine_load import Stream, decoding, embed, write
from benchmarks.footprint import family, memory
from benchmarks.load.plan import Plan
from benchmarks.load.process import Generator, generator
from benchmarks.peers.engines import EMBEDDINGS, OURS, TEXTS
from benchmarks.peers.models import count_tokens
from benchmarks.rounds import rotated, say
from benchmarks.samples import Sample
from benchmarks.standins.nginx import nginx_fixed
from benchmarks.systems import Running, System, Upstream

TITLE = "Local engine"

STREAMS = (1, 8, 32)
BATCHES = (1, 8, 32)
TOKENS = 48
_MOST_ROUNDS = 3
"""Each engine starts anew in each round, alone: two on the same cores would measure each other."""
_LOADED = 8
"""Streams that keep the engine decoding at full load."""
_SHARED = 1000
_JOINING = (30, 500)
"""Words of prompts: about as many tokens."""
_NOTHING = Upstream("", "openai", "")


def run(systems: Sequence[System], rounds: int, quick: bool) -> list[Sample]:
    """Measure; see `benchmarks.scenarios`."""
    able = {system.name: system for system in systems if system.supports(TEXTS) or system.supports(EMBEDDINGS)}
    samples: list[Sample] = []
    for number in range(min(rounds, _MOST_ROUNDS)):
        for name in rotated(list(able), number):
            for sample in _one_life(able[name], number, quick):
                samples.append(sample)
                said = ", ".join(f"{metric} {value:.1f}" for metric, value in sample.metrics.items())
                say(f"local_engine, {sample.case}, round {number + 1}, {name}: {said} {sample.faults or ''}")
    return samples


def _one_life(system: System, number: int, quick: bool) -> Iterator[Sample]:
    """Measure one engine from its start to its end."""
    try:
        began = time.perf_counter()
        with system.running(_NOTHING) as running:
            # What it does only once (compiling, buffers) belongs to the start.
            if system.supports(TEXTS):
                write(running, 1, 8)
            metrics = {"start_s": time.perf_counter() - began, "pss_mb": memory(family(running.pids[0])).pss_mb}
            yield Sample("local_engine", "start", system.name, number, metrics)
            if system.supports(TEXTS):
                for count in STREAMS[:2] if quick else STREAMS:
                    streams = write(running, count, 8 if quick else TOKENS)
                    yield _written(f"{count} {'stream' if count == 1 else 'streams'}", running, number, streams)
                if not quick:
                    yield from _prompts(running, number)
            if system.supports(EMBEDDINGS):
                embed(running, 1, 0.1)
                for texts in BATCHES[:1] if quick else BATCHES:
                    yield _embedded(running, number, texts, 0.5 if quick else 3.0)
        if system.name == OURS.name:
            yield from _path(system, number, quick)
    except (RuntimeError, httpx.HTTPError) as error:  # it refused, or is gone: the others are measured all the same
        say(f"{system.name}: {error}")
        yield Sample("local_engine", "start", system.name, number, {}, {"failed": 1})


def _prompts(running: Running, number: int) -> Iterator[Sample]:
    """Measure what prompts cost; no two have their words in common but those that should."""
    metrics = again(running, _SHARED, 1000 * number)
    yield Sample("local_engine", f"{_SHARED} words shared", running.name, number, metrics)
    for words in _JOINING:
        metrics = joining(running, _LOADED, words, 1000 * number + words)
        yield Sample("local_engine", f"{words} words join {_LOADED} streams", running.name, number, metrics)


def _written(case: str, running: Running, number: int, streams: Sequence[Stream]) -> Sample:
    """Weigh streams: their tokens are counted anew from their texts, whatever their server says of them."""
    faults: dict[str, int] = {}
    for stream in streams:
        if stream.fault:
            faults[stream.fault] = faults.get(stream.fault, 0) + 1
    span = max(stream.ended for stream in streams) - min(stream.began for stream in streams)
    tokens = sum(count_tokens([stream.text for stream in streams]))
    first = [1e3 * (stream.spoke - stream.began) for stream in streams if stream.spoke]
    metrics = {"tokens_per_s": tokens / span, "tokens": float(tokens)}
    if first:
        metrics |= {"ttft_p50_ms": statistics.median(first), "ttft_max_ms": max(first)}
    return Sample("local_engine", case, running.name, number, metrics, faults)


def _embedded(running: Running, number: int, texts: int, seconds: float) -> Sample:
    done, span, took = embed(running, texts, seconds)
    metrics = {"embeddings_per_s": done / span, "batch_p50_ms": 1e3 * statistics.median(took)}
    return Sample("local_engine", f"embeddings of {texts}", running.name, number, metrics)


def _path(system: System, number: int, quick: bool) -> Iterator[Sample]:
    """Measure chats that only pass through, to a server elsewhere: while the engine rests, and while it decodes."""
    with nginx_fixed() as fixed, system.running(Upstream(fixed.url, "openai", "bench")) as running, generator() as load:
        write(running, 1, 8)
        seconds = 0.5 if quick else 4.0
        yield _passed("remote path, engine at rest", running, number, load, seconds)
        with decoding(running, _LOADED) as ended:
            sample = _passed(f"remote path, engine decoding {_LOADED} streams", running, number, load, seconds)
        for stream in ended:
            # It must have decoded all the while, or the figure says nothing.
            if stream.fault:
                sample.faults[stream.fault] = sample.faults.get(stream.fault, 0) + 1
        yield sample


def _passed(case: str, running: Running, number: int, load: Generator, seconds: float) -> Sample:
    outcome = load.perform(Plan(running.url, "bench", dict(running.headers), connections=1, seconds=seconds, tokens=0))
    return Sample("local_engine", case, running.name, number, outcome.metrics, outcome.faults)

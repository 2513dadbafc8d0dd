"""What a run's exchanges amount to: their times as metrics, and what was wrong with any of them as faults."""

import bisect
import itertools
import re
from collections import Counter
from collections.abc import Sequence

import orjson

from benchmarks.load.bodies import INPUTS
from benchmarks.load.exchange import Exchange
from benchmarks.load.plan import Outcome, Plan
from benchmarks.marks import Mark, find_marks, tag_number
from benchmarks.statistics import summary

READ_THROUGH = 64
"""Answers that are decoded as JSON, every event of them; of the others only the marks are checked."""

LARGE = ("prompt", "image")
NEARLY = 0.98
"""The share of a large body that has to reach the upstream, which counts its bytes: spaces may go, content may not."""

_PROMPT_TOKENS = re.compile(rb'"prompt_tokens":\s*(\d+)')


def judge(plan: Plan, exchanges: Sequence[Exchange], warming: Sequence[Exchange], span_s: float) -> Outcome:
    """Return metrics and faults.

    Args:
        plan: what should have been.
        exchanges: the timed ones.
        warming: the others; they count as served.
        span_s: from the first request's sending to the last answer's end, seconds.
    """
    faults: Counter[str] = Counter()
    answered = tokens = 0
    times = Times()
    for number, exchange in enumerate(itertools.chain(exchanges, warming)):
        timed = number < len(exchanges)
        body = b"".join(exchange.pieces)
        marks = find_marks(body) if plan.tokens else []
        tokens += len(marks)
        fault = _fault(plan, exchange, body, marks)
        if not fault and number < READ_THROUGH:
            fault = _structure(plan, body)
        if fault:
            faults[fault] += 1
            continue
        answered += 1
        if timed:
            times.add(exchange, marks)
    metrics = times.metrics(streamed=plan.tokens > 1)
    if span_s > 0:
        metrics["requests_per_s"] = len(times.total) / span_s
        if plan.tokens > 1:
            metrics["tokens_per_s"] = len(times.delay) / span_s
    return Outcome({**metrics, "answered": len(times.total)}, dict(faults), answered, tokens)


class Times:
    """The times of sound exchanges: ns as they were taken, µs and ms as they are shown."""

    def __init__(self) -> None:
        self.total: list[float] = []
        self.ttft: list[float] = []
        self.path: list[float] = []
        self.delay: list[float] = []
        self.gap: list[float] = []

    def add(self, exchange: Exchange, marks: Sequence[Mark]) -> None:
        """Take one exchange."""
        self.total.append((exchange.ended - exchange.due) / 1e3)
        if not marks:
            return
        ends = list(itertools.accumulate(map(len, exchange.pieces)))
        arrived = [exchange.times[bisect.bisect_left(ends, mark.end)] for mark in marks]
        first = marks[0]
        self.ttft.append((arrived[0] - exchange.due) / 1e3)
        # Both ways through the system, less what the stand-in made of it.
        self.path.append((arrived[0] - exchange.due - (first.sent - first.received)) / 1e3)
        self.delay += [(at - mark.sent) / 1e3 for at, mark in zip(arrived, marks, strict=True)]
        self.gap += [(after - before) / 1e6 for before, after in itertools.pairwise(arrived)]

    def metrics(self, *, streamed: bool) -> dict[str, float]:
        """Return the quantiles of what there is."""
        metrics = summary("total", self.total, "us")
        if streamed:
            metrics |= summary("ttft", self.ttft, "us") | summary("ttft_path", self.path, "us")
            metrics |= summary("delay", self.delay, "us") | summary("gap", self.gap, "ms")
        return metrics


def _fault(plan: Plan, exchange: Exchange, body: bytes, marks: Sequence[Mark]) -> str:
    """Return what is wrong with an answer, in a word or two; empty where nothing is."""
    if exchange.broken:
        return f"broken: {exchange.broken}"[:80]
    if not exchange.ended:
        return "unanswered"
    if exchange.status != 200:
        return f"status {exchange.status}"
    if plan.shape.startswith("embeddings"):
        return _embeddings_fault(body, exchange.body.tag)
    if not plan.tokens:
        return "" if body.startswith(b"{") else "no JSON"
    if any(mark.tag != exchange.body.tag for mark in marks):
        return "another request's answer"
    if [mark.index for mark in marks] != list(range(plan.tokens)):
        return "tokens lost or out of order"
    if plan.shape in LARGE:
        found = _PROMPT_TOKENS.search(body)
        if found is not None and int(found[1]) < NEARLY * exchange.body.size:
            return "request cut off"
    if plan.tokens > 1:
        end = b'"done":true' if plan.dialect == "ollama" else b"data: [DONE]"
        if end not in body[-600:].replace(b'"done": true', b'"done":true'):
            return "no end"
    return ""


def _embeddings_fault(body: bytes, tag: bytes) -> str:
    """Look at no more than the count, since a decoded answer is a hundred thousand numbers: see `_structure`."""
    found = _PROMPT_TOKENS.search(body, max(0, len(body) - 600)) or _PROMPT_TOKENS.search(body)
    return "" if found is not None and int(found[1]) == tag_number(tag) else "another request's answer"


def _structure(plan: Plan, body: bytes) -> str:
    """Return what is wrong with an answer's form."""
    if plan.tokens > 1 and plan.dialect == "openai":
        texts = [line[5:].strip() for line in body.replace(b"\r", b"").split(b"\n") if line.startswith(b"data:")]
        texts = [text for text in texts if text != b"[DONE]"]
    else:
        texts = body.split(b"\n") if plan.dialect == "ollama" else [body]
    try:
        values = [orjson.loads(text) for text in texts if text]
    except ValueError:
        return "no JSON"
    if not values or not all(isinstance(value, dict) for value in values):
        return "no JSON objects"
    if plan.shape.startswith("embeddings") and [row["index"] for row in values[0]["data"]] != list(range(INPUTS)):
        return "vectors lost or out of order"
    return ""

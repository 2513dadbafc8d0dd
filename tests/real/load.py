"""How much a server works, by its own account."""

import math
import re
import threading

import httpx

_RUNNING = re.compile(
    r"^(?:vllm:num_requests_running|llamacpp:requests_processing)(?:\{[^}]*\})? +(?P<value>[\d.e+]+)$", re.MULTILINE
)
"""SGLang's gauge is left out: it is written every few dozen steps, and not again when the last request is gone."""
_GENERATED = re.compile(
    r"^(?:vllm:generation_tokens_total|llamacpp:tokens_predicted_total)(?:\{[^}]*\})? +(?P<value>[\d.e+]+)$",
    re.MULTILINE,
)

_PAUSE = 1.2
"""Seconds between two questions.  llama.cpp looks for clients that left when it had no result to hand out for a second,
and what it answers here is such a result: asked more often it never looks, and works on to the end."""


def requests_running(direct: httpx.Client) -> float | None:
    """Return how many requests run on a server; None where it does not say."""
    loads = direct.get("/v1/loads")
    if loads.status_code == 200 and "num_running_reqs" in loads.text:
        return float(sum(int(count) for count in re.findall(r'"num_running_reqs": ?(\d+)', loads.text)))
    return _sum(direct, _RUNNING)


def tokens_generated(direct: httpx.Client) -> float | None:
    """Return how many tokens a server has made since it started; None where it does not say."""
    return _sum(direct, _GENERATED)


def await_running(direct: httpx.Client, wanted: range, patience: float) -> bool:
    """Wait until the server's count is in `wanted`, for so many seconds; return whether it was."""
    pause = threading.Event()
    # Counted, not timed: while nobody runs, on a machine that is shared or asleep, nobody is slow.
    for _ in range(math.ceil(patience / _PAUSE)):
        count = requests_running(direct)
        if count is not None and int(count) in wanted:
            return True
        pause.wait(_PAUSE)  # another process: there is no event to wait for
    return False


def _sum(direct: httpx.Client, wanted: re.Pattern[str]) -> float | None:
    metrics = direct.get("/metrics")
    values = [float(found["value"]) for found in wanted.finditer(metrics.text)]
    return sum(values) if metrics.status_code == 200 and values else None

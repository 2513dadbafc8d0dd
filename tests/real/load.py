"""How many requests a server is working on, by its own account."""

import re
import threading
import time

import httpx

_GAUGE = re.compile(
    r"^(?:vllm:num_requests_running|llamacpp:requests_processing)(?:\{[^}]*\})? +(?P<value>[\d.e+]+)$", re.MULTILINE
)
"""SGLang's gauge is left out: it is written every few dozen steps, and not again when the last request is gone."""


def requests_running(url: str) -> float | None:
    """Return how many requests run on the server at `url`; None where it does not say."""
    loads = httpx.get(f"{url}/v1/loads", timeout=30, trust_env=False)
    if loads.status_code == 200 and "num_running_reqs" in loads.text:
        return float(sum(int(count) for count in re.findall(r'"num_running_reqs": ?(\d+)', loads.text)))
    metrics = httpx.get(f"{url}/metrics", timeout=30, trust_env=False)
    values = [float(found["value"]) for found in _GAUGE.finditer(metrics.text)]
    return sum(values) if metrics.status_code == 200 and values else None


def await_running(url: str, wanted: range, patience: float) -> float | None:
    """Wait until the count is in `wanted`; return how many seconds that took, or None if it never was."""
    start = time.monotonic()
    pause = threading.Event()
    while (passed := time.monotonic() - start) < patience:
        count = requests_running(url)
        if count is not None and int(count) in wanted:
            return passed
        pause.wait(0.05)  # another process: there is no event to wait for
    return None

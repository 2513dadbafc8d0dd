"""Embeddings over HTTP beside sentence-transformers' own `encode`, over the same packaged model and the same requests.

    python -m benchmarks.embedding_rates [--rounds 3] [--requests 2] [--beside URL] [--output FILE]

Needs an environment with the extras `local` and `demo`, sentence-transformers and openai.  Rounds are interleaved: a
loop of `encode`, one client, eight clients, one short input at a time.  While one of them works the others rest.
`--beside` names another server that serves the same model, such as infinity:

    infinity_emb v2 --model-id DIRECTORY --engine torch --device cpu --dtype float32 --url-prefix /v1
"""

import argparse
import http.client
import json
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks.processes import HOST, await_answer, free_port, started

INPUTS = 256
CLIENTS = 8
SHORT = "How warm will it be tomorrow?"
SINGLES = 40

_WORDS = (
    "the quick brown fox jumps over a lazy dog while engineers measure what vectors cost on machines".split()  # noqa: SIM905 - prose
)


def texts(seed: int) -> list[str]:
    """Return inputs of mixed length: most of some tens of words, a few of three or of two hundred."""
    rng = random.Random(seed)
    lengths = [int(min(200, max(3, rng.lognormvariate(3.2, 0.8)))) for _ in range(INPUTS)]
    return [" ".join(rng.choice(_WORDS) for _ in range(length)) for length in lengths]


def timed(act: Callable[[], object]) -> float:
    """Return how many seconds something took."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


class Gateway:
    """A client of the server that is measured.

    Args:
        url: where it is.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=600, trust_env=False)

    def embed(self, inputs: Sequence[str]) -> None:
        """Embed, as OpenAI's client asks: in base64."""
        answer = self._client.post("/v1/embeddings", json={"input": inputs, "encoding_format": "base64"})
        if answer.status_code != 200 or len(answer.json()["data"]) != len(inputs):
            raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")

    def at_once(self, lists: Sequence[Sequence[str]], clients: int) -> None:
        """Embed lists, so many at a time."""
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(self.embed, lists))


class Lean:
    """A client that costs little: the standard library's, on one connection.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=600)

    def embed(self, inputs: Sequence[str]) -> None:
        """Embed, in base64; the vectors are not decoded."""
        try:
            answer = self._ask(inputs)
        except ConnectionError:  # it rested for longer than the server holds a connection open
            self._connection.close()
            answer = self._ask(inputs)
        if answer.status != 200 or len(json.loads(answer.read())["data"]) != len(inputs):
            raise RuntimeError(f"{answer.status}")

    def _ask(self, inputs: Sequence[str]) -> http.client.HTTPResponse:
        body = json.dumps({"input": inputs, "encoding_format": "base64"})
        self._connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
        return self._connection.getresponse()


def measure(rounds: int, requests: int, beside: str | None = None) -> dict[str, Any]:
    """Return inputs a second of each way, round by round, and the milliseconds of one short input.

    Args:
        rounds: how often each way has its turn.
        requests: lists of `INPUTS` texts in each turn of it.
        beside: the address of another server, without `/v1`.
    """
    warnings.simplefilter("ignore")
    import openai
    import sentence_transformers
    import torch

    from illm.backends.local.sources import resolve_named

    directory = resolve_named("demo", "embedding").directory
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    encode, ids = model.encode, model.tokenizer([SHORT], return_tensors="pt")

    def bare() -> None:
        with torch.inference_mode():
            model[0].auto_model(**ids)

    port = free_port()
    command = [sys.executable, "-m", "illm.server", "transformers", "--model", str(directory)]
    listen = ["--host", HOST, "--port", str(port), "--log-level", "error"]
    with started("illm", [*command, *listen]) as server:
        await_answer(server, f"http://{HOST}:{port}/healthz")
        gateway, lean = Gateway(f"http://{HOST}:{port}"), Lean(port)
        official = openai.OpenAI(base_url=f"http://{HOST}:{port}/v1", api_key="none", timeout=600)
        gateway.embed(texts(0))
        served = official.models.list().data[0].id
        encode(texts(0), show_progress_bar=False)
        ways: dict[str, Callable[[list[list[str]]], object]] = {
            "sentence_transformers": lambda lists: [encode(one, show_progress_bar=False) for one in lists],
            "one_client": lambda lists: gateway.at_once(lists, 1),
            "eight_clients": lambda lists: gateway.at_once(lists, CLIENTS),
        }
        singles: dict[str, Callable[[], object]] = {
            "over_httpx": lambda: gateway.embed([SHORT]),
            "over_http_client": lambda: lean.embed([SHORT]),
            "over_openai": lambda: official.embeddings.create(model=served, input=[SHORT]),
            "encode": lambda: encode([SHORT], show_progress_bar=False),
            "bare_model": bare,
        }
        if beside is not None:
            other = Gateway(beside)
            other.embed(texts(0))
            ways["other_one_client"] = lambda lists: other.at_once(lists, 1)
            ways["other_eight_clients"] = lambda lists: other.at_once(lists, CLIENTS)
            singles["other_over_http"] = lambda: other.embed([SHORT])
        rates: dict[str, list[float]] = {name: [] for name in ways}
        short: dict[str, list[float]] = {name: [] for name in singles}
        for number in range(rounds):
            lists = [texts(number * 1000 + at + 1) for at in range(requests)]
            for name, way in ways.items():
                # Eight clients share what one client asks for: as many inputs, in lists an eighth as long.
                shared = [one[at::CLIENTS] for one in lists for at in range(CLIENTS)]
                given = shared if name.endswith("eight_clients") else lists
                rates[name].append(requests * INPUTS / timed(partial(way, given)))
            for name, single in singles.items():
                short[name] += [1e3 * timed(single) for _ in range(SINGLES)]
    return {
        "threads": torch.get_num_threads(),
        "inputs_per_s": rates,
        "ratio": {
            name: statistics.median(
                rate / base for rate, base in zip(rates[name], rates["sentence_transformers"], strict=True)
            )
            for name in ways
            if name != "sentence_transformers"
        },
        "short_p50_ms": {name: statistics.median(times) for name, times in short.items()},
    }


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--beside", metavar="URL")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = json.dumps(measure(given.rounds, given.requests, given.beside), indent=1)
    if given.output is not None:
        given.output.write_text(found + "\n", encoding="utf-8")
    sys.stdout.write(found + "\n")


if __name__ == "__main__":
    main()

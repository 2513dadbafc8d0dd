"""Turn texts into vectors, and compare them.

python illm/client/embeddings.py --framework transformers --embedding_model demo --inputs hello world

Needs httpx only.  The key, if the server wants one, is read from the environment variable `ILLM_API_KEY`.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import httpx

TIMEOUT = httpx.Timeout(10, read=600)  # seconds; the model may have to be loaded first


class RefusedError(Exception):
    """The server answered with an error."""


def main(argv: Sequence[str] | None = None) -> None:
    """Embed, print a line a text, leave with status 1 if that fails."""
    parser = argparse.ArgumentParser(description="Turn texts into vectors, and compare them.")
    parser.add_argument("--base_url", default="http://127.0.0.1:8000")
    parser.add_argument("--framework", help="transformers, vllm, sglang, tgi or ollama; default: the server's")
    parser.add_argument("--embedding_model", help="default: the server's")
    parser.add_argument("--inputs", nargs="+", default=["hello", "world"], help="one or more texts")
    args = parser.parse_args(argv)

    options = {"framework": args.framework, "embedding_model": args.embedding_model}
    body = {name: value for name, value in options.items() if value is not None} | {"input": args.inputs}
    key = os.environ.get("ILLM_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=args.base_url, headers=headers, timeout=TIMEOUT) as client:
            vectors = embed(client, body)
    except (httpx.HTTPError, httpx.InvalidURL, RefusedError, ValueError, LookupError) as exc:
        sys.exit(f"error: {exc or type(exc).__name__}")
    for text, vector in zip(args.inputs, vectors, strict=True):
        start = ", ".join(f"{number:.4f}" for number in vector[:4])
        print(f"{text!r}: {len(vector)} numbers [{start}, ...], cosine to the first {cosine(vectors[0], vector):.4f}")


def embed(client: httpx.Client, body: dict[str, Any]) -> list[list[float]]:
    """Return one vector a text, in the order of the texts."""
    response = client.post("/v1/embeddings", json=body)
    if response.is_error:
        raise RefusedError(explain(response))
    rows = sorted(response.json()["data"], key=lambda row: row["index"])
    return [row["embedding"] for row in rows]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors: 1 where they point the same way."""
    length = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / length if length else 0.0


def explain(response: httpx.Response) -> str:
    """Return what an error answer says, whatever it looks like."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        message = response.text
    return f"{response.status_code}: {message}"


if __name__ == "__main__":
    main()

"""Ask a question, whole or streamed.

python illm/client/chat_completions.py --framework transformers --model demo --prompt "Hello" --max_tokens 16
python illm/client/chat_completions.py --prompt "Say hi thrice" --stream

Needs httpx only.  The key, if the server wants one, is read from the environment variable `ILLM_API_KEY`.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import httpx

TIMEOUT = httpx.Timeout(10, read=600)  # seconds; the first token of a large model may take a while


class RefusedError(Exception):
    """The server answered with an error."""


def main(argv: Sequence[str] | None = None) -> None:
    """Ask, print the answer, leave with status 1 if there is none."""
    parser = argparse.ArgumentParser(description="Ask a question, whole or streamed.")
    parser.add_argument("--base_url", default="http://127.0.0.1:8000")
    parser.add_argument("--framework", help="transformers, vllm, sglang, tgi or ollama; default: the server's")
    parser.add_argument("--model", help="default: the server's")
    parser.add_argument("--prompt", default="What is the capital of France?")
    parser.add_argument("--max_tokens", type=int)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--stream", action="store_true", help="print the text as it is made")
    args = parser.parse_args(argv)

    options = {name: getattr(args, name) for name in ("framework", "model", "max_tokens", "temperature")}
    body = {name: value for name, value in options.items() if value is not None}
    body |= {"messages": [{"role": "user", "content": args.prompt}], "stream": args.stream}
    key = os.environ.get("ILLM_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=args.base_url, headers=headers, timeout=TIMEOUT) as client:
            for text in stream(client, body) if args.stream else [complete(client, body)]:
                print(text, end="", flush=True)
        print()
    except (httpx.HTTPError, httpx.InvalidURL, RefusedError, ValueError, LookupError) as exc:
        sys.exit(f"\nerror: {exc or type(exc).__name__}")


def complete(client: httpx.Client, body: dict[str, Any]) -> str:
    """Return the whole answer."""
    response = client.post("/v1/chat/completions", json=body)
    if response.is_error:
        raise RefusedError(explain(response))
    return str(response.json()["choices"][0]["message"]["content"])


def stream(client: httpx.Client, body: dict[str, Any]) -> Iterator[str]:
    """Yield the answer in the pieces in which it arrives."""
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.is_error:
            response.read()
            raise RefusedError(explain(response))
        for event in events(response.iter_bytes()):
            if event.get("error"):  # the answer had begun when it failed
                raise RefusedError(event["error"].get("message", "the server failed"))
            for choice in event["choices"]:
                yield choice["delta"].get("content") or ""


def events(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Decode server-sent events up to `[DONE]`.

    Bytes are cut at line feeds only: `str.splitlines` and what is built on it also cuts inside a JSON string,
    for instance at U+2028, and a chunk may end in the middle of a character.
    """
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # an empty line, or a comment that keeps the connection alive
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)
    raise RefusedError("the stream broke off before its end")


def explain(response: httpx.Response) -> str:
    """Return what an error answer says, whatever it looks like."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        message = response.text
    return f"{response.status_code}: {message}"


if __name__ == "__main__":
    main()

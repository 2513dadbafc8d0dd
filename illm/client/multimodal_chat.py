"""Ask about an image.

python illm/client/multimodal_chat.py --framework ollama --model llava:7b \
    --text "Describe this image" --image_url https://example.org/cat.png

Needs httpx only.  The key, if the server wants one, is read from the environment variable `ILLM_API_KEY`.
"""

import argparse
import base64
import mimetypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

TIMEOUT = httpx.Timeout(10, read=600)  # seconds; looking at an image takes a while


class RefusedError(Exception):
    """The server answered with an error."""


def main(argv: Sequence[str] | None = None) -> None:
    """Ask, print the answer, leave with status 1 if there is none."""
    parser = argparse.ArgumentParser(description="Ask about an image.")
    parser.add_argument("--base_url", default="http://127.0.0.1:8000")
    parser.add_argument("--framework", help="transformers, vllm, sglang, tgi or ollama; default: the server's")
    parser.add_argument("--model", help="one that sees; default: the server's")
    parser.add_argument("--text", default="Describe this image")
    parser.add_argument("--image_url", required=True, help="an http, https or data URL, or a file of this machine")
    args = parser.parse_args(argv)

    options = {"framework": args.framework, "model": args.model}
    body: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    key = os.environ.get("ILLM_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        content = [
            {"type": "text", "text": args.text},
            {"type": "image_url", "image_url": {"url": image_url(args.image_url)}},
        ]
        body["messages"] = [{"role": "user", "content": content}]
        with httpx.Client(base_url=args.base_url, headers=headers, timeout=TIMEOUT) as client:
            print(ask(client, body))
    except (httpx.HTTPError, httpx.InvalidURL, RefusedError, OSError, ValueError, LookupError) as exc:
        sys.exit(f"error: {exc or type(exc).__name__}")


def ask(client: httpx.Client, body: dict[str, Any]) -> str:
    """Return the answer."""
    response = client.post("/v1/chat/completions", json=body)
    if response.is_error:
        raise RefusedError(explain(response))
    return str(response.json()["choices"][0]["message"]["content"])


def image_url(where: str) -> str:
    """Return a URL as it is, and a file as a data URL: the server opens no files for anybody."""
    if where.lower().startswith(("http://", "https://", "data:")):
        return where
    kind = mimetypes.guess_type(where)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(Path(where).read_bytes()).decode()}"


def explain(response: httpx.Response) -> str:
    """Return what an error answer says, whatever it looks like."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        message = response.text
    return f"{response.status_code}: {message}"


if __name__ == "__main__":
    main()

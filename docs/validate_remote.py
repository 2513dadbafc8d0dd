"""Send requests to ILLM with a real server behind it, and write its sections of docs/validation-remote.md anew.

    python -m tests.real.llamacpp --python SERVER_VENV/bin/python -- python docs/validate_remote.py
    python -m tests.real.llamacpp --python SERVER_VENV/bin/python --embeddings -- python docs/validate_remote.py

The launcher's environment says which server it is and where.  Everything else on the page is written by hand.
"""

import json
import os
import re
import sys
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.real.asked import CHOICE, LONG, PICTURE, PLAIN, SCHEMA, TOOLS
from tests.real.gateway import served

PAGE = Path(__file__).with_name("validation-remote.md")
NAMES = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp"}
CHAT, COMPLETIONS, EMBEDDINGS = "/chat/completions", "/completions", "/embeddings"
SHORT = {**PLAIN, "max_tokens": 16}
COUNTED = {"stream": True, "stream_options": {"include_usage": True}}

Asked = tuple[str, str, dict]
"""Title, path and body of one request."""


def of_text(server: str) -> list[Asked]:
    """Return what a language model is asked."""
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    return [
        ("Chat", CHAT, SHORT),
        ("Chat, streamed, with usage", CHAT, {**SHORT, "max_tokens": 3, **COUNTED}),
        ("Completions", COMPLETIONS, {"prompt": "One, two, three,", "max_tokens": 4, "temperature": 0, "logprobs": 1}),
        ("Two choices at temperature 0", CHAT, {**SHORT, "n": 2}),
        ("JSON schema", CHAT, {**PLAIN, "max_tokens": 40, "response_format": schema}),
        ("The server's own constraint", CHAT, {**SHORT, **CHOICE[server]}),
        ("Log-probabilities", CHAT, {**SHORT, "max_tokens": 2, "logprobs": True, "top_logprobs": 2}),
        ("A tool, of the model's own accord", CHAT, {**TOOLS, "tool_choice": "auto"}),
        ("A tool that has to be called, streamed", CHAT, {**TOOLS, "tool_choice": "required", "stream": True}),
        ("A model that is not there", CHAT, {**SHORT, "model": "no-such-model"}),
        ("A prompt that is too long", CHAT, {"messages": LONG}),
        ("An image for a model that only reads", CHAT, {"messages": PICTURE, "max_tokens": 4}),
        ("Embeddings from a model that only writes", EMBEDDINGS, {"input": "A cat."}),
    ]


def of_embeddings(server: str) -> list[Asked]:
    """Return what an embedding model is asked."""
    embedded = ("Embeddings", EMBEDDINGS, {"input": ["A cat sits on the mat."], "encoding_format": "float"})
    refused = [("A chat with a model that only embeds", CHAT, SHORT)]
    return [embedded, *(refused if server != "llamacpp" else [])]


def of_ollama(_: str) -> list[Asked]:
    """Return what is asked by Ollama's protocol."""
    return of_text("sglang")[:2]


def written(environment: dict[str, str], requests: list[Asked]) -> str:
    """Ask, and return the answers as the page shows them."""
    shown = []
    with served(environment, "asyncio") as url, httpx.Client(timeout=300, trust_env=False) as client:
        framework = environment["ILLM_FRAMEWORK"]
        model = client.get(f"{url}/models", params={"framework": framework}).json()["data"][0]["id"]
        for title, path, asked in requests:
            body = {"model": model, **asked}
            answer = client.post(f"{url}{path}", json=body)
            text = json.dumps(body, separators=(",", ":"))
            language, text = ("json", text) if len(text) < 1500 else ("text", f"{text[:120]}... ({len(text)} bytes)")
            said = answer.text.strip()
            said = said if len(said) < 2500 else f"{said[:1200]}...\n\n({len(said)} bytes)"
            shown.append(
                f"### {title}\n\n`POST /v1{path}`\n\n```{language}\n{text}\n```\n\n"
                f"HTTP status {answer.status_code}:\n\n```text\n{said}\n```\n"
            )
    return "\n".join(shown)


def replaced(page: str, title: str, section: str) -> str:
    """Return the page with the section of that title replaced, or added at its end."""
    old = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    new = f"## {title}\n\n{section}"
    if old.search(page):
        return old.sub(lambda _: f"{new}\n", page).rstrip("\n") + "\n"
    return f"{page.rstrip()}\n\n{new}"


def main() -> None:
    """Ask, and write."""
    server, framework, kind = (os.environ[f"REAL_{name}"] for name in ("SERVER", "FRAMEWORK", "KIND"))
    name = NAMES[server]
    environment = {**os.environ, "ILLM_FRAMEWORK": framework, "ILLM_LOG_LEVEL": "error"}
    wanted = [(name, environment, of_text)] if kind == "text" else [(f"{name}, embeddings", environment, of_embeddings)]
    if (server, kind) == ("sglang", "text"):
        ollama = {
            "ILLM_FRAMEWORK": "ollama",
            "ILLM_OLLAMA_BASE_URL": os.environ["ILLM_SGLANG_BASE_URL"],
            "ILLM_OLLAMA_API_KEY": os.environ["ILLM_SGLANG_API_KEY"],
        }
        wanted.append((f"{name}, by Ollama's protocol", environment | ollama, of_ollama))
    for title, settings, requests in wanted:
        section = written(settings, requests(server))
        PAGE.write_text(replaced(PAGE.read_text(), title, section))


if __name__ == "__main__":
    main()

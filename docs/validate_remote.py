"""Print a section of docs/validation-remote.md: requests to ILLM, and what a real server behind it answered.

    python -m tests.real.llamacpp --python SERVER_VENV/bin/python -- python docs/validate_remote.py

The launcher's environment says which server it is and where.
"""

import json
import os
import sys
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.real.gateway import served

QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
SHORT = {**QUESTION, "max_tokens": 16, "stop": ["\nUser:"]}
CHOICE = {
    "vllm": {"structured_outputs": {"choice": ["red", "blue"]}},
    "sglang": {"regex": "(red|blue)"},
    "llamacpp": {"grammar": 'root ::= "red" | "blue"'},
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "capital": {"type": "boolean"}},
    "required": ["city", "capital"],
    "additionalProperties": False,
}
WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
}
CALL = {"id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
TOOLS = {
    "messages": [
        {"role": "user", "content": "What is the weather in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_a", "content": "Sunny."},
        {"role": "assistant", "content": "It is sunny in Rome."},
        {"role": "user", "content": "What is the weather in Paris?"},
    ],
    "temperature": 0,
    "max_tokens": 60,
    "stop": ["\nUser:"],
    "tools": [{"type": "function", "function": WEATHER}],
    "parallel_tool_calls": False,
}
CHAT, COMPLETIONS, EMBEDDINGS = "/chat/completions", "/completions", "/embeddings"


def asked(server: str, kind: str) -> list[tuple[str, str, dict]]:
    """Return title, path and body of each request."""
    if kind == "embeddings":
        return [("Embeddings", EMBEDDINGS, {"input": ["A cat sits on the mat."], "encoding_format": "float"})]
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    counted = {"stream": True, "stream_options": {"include_usage": True}}
    return [
        ("Chat", CHAT, SHORT),
        ("Chat, streamed, with usage", CHAT, {**SHORT, "max_tokens": 3, **counted}),
        ("Completions", COMPLETIONS, {"prompt": "One, two, three,", "max_tokens": 4, "temperature": 0, "logprobs": 1}),
        ("Two choices at temperature 0", CHAT, {**SHORT, "n": 2}),
        ("JSON schema", CHAT, {**QUESTION, "max_tokens": 40, "response_format": schema}),
        ("The server's own constraint", CHAT, {**SHORT, **CHOICE[server]}),
        ("Log-probabilities", CHAT, {**SHORT, "max_tokens": 2, "logprobs": True, "top_logprobs": 2}),
        ("A tool, of the model's own accord", CHAT, {**TOOLS, "tool_choice": "auto"}),
        ("A tool that has to be called, streamed", CHAT, {**TOOLS, "tool_choice": "required", "stream": True}),
        ("A model that is not there", CHAT, {**SHORT, "model": "no-such-model"}),
        ("A prompt that is too long", CHAT, {"messages": [{"role": "user", "content": "word " * 5000}]}),
        ("Embeddings from a model that only writes", EMBEDDINGS, {"input": "A cat."}),
    ]


def main() -> None:
    """Ask, and print."""
    server, framework, kind = (os.environ[f"REAL_{name}"] for name in ("SERVER", "FRAMEWORK", "KIND"))
    environment = {**os.environ, "ILLM_FRAMEWORK": framework, "ILLM_LOG_LEVEL": "error"}
    only = sys.argv[1:]
    with served(environment, "asyncio") as url, httpx.Client(timeout=300, trust_env=False) as client:
        model = client.get(f"{url}/models").json()["data"][0]["id"]
        for title, path, body in asked(server, kind):
            if only and title not in only:
                continue
            body = {"model": model, **body}
            shown = json.dumps(body, separators=(",", ":"))
            shown = shown if len(shown) < 1500 else f"{shown[:120]}... ({len(shown)} bytes)"
            answer = client.post(f"{url}{path}", json=body)
            text = answer.text.strip()
            text = text if len(text) < 2500 else f"{text[:1200]}...\n\n({len(text)} bytes)"
            language = "text" if shown.endswith("bytes)") else "json"
            sys.stdout.write(f"### {server}: {title}\n\n`POST /v1{path}`\n\n```{language}\n{shown}\n```\n\n")
            sys.stdout.write(f"HTTP status {answer.status_code}:\n\n```text\n{text}\n```\n\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

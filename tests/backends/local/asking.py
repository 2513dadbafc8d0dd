"""A gateway, and the official client asking it for calls of tools."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import openai

from backends.local import gateway

GET = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "Gets.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["Köln", "Ulm"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["place", "days"],
        },
    },
}
PUT = {
    "type": "function",
    "function": {
        "name": "put",
        "parameters": {
            "type": "object",
            "properties": {"notes": {"type": "array", "items": {"type": "string"}}, "more": {"type": "string"}},
            "required": ["notes"],
        },
    },
}
ASKED = {"messages": [{"role": "user", "content": "Weather?"}], "temperature": 0, "max_tokens": 200}
ARGUMENTS = '{"place": "Köln", "days": 2}'
ONE = f'I look.\n<tool_call>\n{{"name": "get", "arguments": {ARGUMENTS}}}\n</tool_call>'


def follows(name: str, arguments: str) -> bool:
    """Whether a call obeys its tool's schema."""
    values = json.loads(arguments)
    if name == "get":
        return (
            values.keys() == {"place", "days"} and values["place"] in ("Köln", "Ulm") and values["days"] in range(1, 10)
        )
    assert name == "put"
    return isinstance(values["notes"], list) and all(isinstance(one, str) for one in values["notes"])


@asynccontextmanager
async def serving(directory: Any, **options: Any) -> AsyncIterator[SimpleNamespace]:
    """Serve a model; yields a function that asks it through the official client, which blocks, from a thread."""
    async with gateway.serving(model=str(directory), threads=1, **options) as http:
        client = openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)

        async def whole(**request):
            return await anyio.to_thread.run_sync(lambda: client.chat.completions.create(model=None, **request))

        async def streamed(**request):
            return fold(await anyio.to_thread.run_sync(lambda: list(client.chat.completions.create(
                model=None, stream=True, **request
            ))))  # fmt: skip

        yield SimpleNamespace(whole=whole, streamed=streamed, http=http)
        client.close()


def fold(chunks):
    """Put the chunks of choice 0 together; checks what clients rely on."""
    text, thought, calls, reason, pieces = "", "", [], None, 0
    for chunk in chunks:
        for choice in chunk.choices:
            if choice.index:
                continue
            delta = choice.delta
            text += delta.content or ""
            thought += getattr(delta, "reasoning_content", None) or ""
            for call in delta.tool_calls or ():
                if call.index == len(calls):
                    assert call.id
                    assert call.type == "function"
                    calls.append([call.function.name, ""])
                else:
                    assert call.id is None
                calls[call.index][1] += call.function.arguments
                pieces += 1
            reason = choice.finish_reason or reason
    return SimpleNamespace(text=text, thought=thought, calls=calls, reason=reason, pieces=pieces)


def calls_of(message):
    return [[call.function.name, call.function.arguments] for call in message.tool_calls or ()]

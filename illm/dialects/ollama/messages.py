"""A conversation as Ollama takes it: text apart from images, objects for tool arguments, results by tool name."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from illm.core.requests import Audio, Image, Message, Tool, ToolCall
from illm.dialects.ollama.media import audio_base64, image_base64

JSON = dict[str, Any]

ROLES: Mapping[str, str] = {"developer": "system", "function": "tool"}
"""Roles that Ollama has another name for; one that it does not know would be taken for text."""


def write_messages(messages: Sequence[Message]) -> list[JSON]:
    """Write a conversation.

    Raises:
        GatewayError: an image or a sound cannot be sent.
    """
    names: dict[str, str] = {}  # of the tools called so far, by call id; the same id again means the later call
    written = []
    for at, message in enumerate(messages):
        written.append(_message(message, names, f"messages[{at}]"))
        names |= {call.id: call.name for call in message.tool_calls if call.id}
    return written


def write_tools(tools: Sequence[Tool]) -> list[JSON]:
    """Write what may be called.  A function without parameters is one with an empty object, or templates break."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": dict(tool.parameters or {"type": "object", "properties": {}}),
            },
        }
        for tool in tools
    ]


def _message(message: Message, names: Mapping[str, str], path: str) -> JSON:
    written: JSON = {"role": ROLES.get(message.role, message.role), "content": message.text}
    media = [
        _medium(part, f"{path}.content[{at}]")
        for at, part in enumerate(message.content)
        if isinstance(part, Image | Audio)
    ]
    if media:
        written["images"] = media
    if message.reasoning:
        written["thinking"] = message.reasoning
    if message.tool_calls:
        written["tool_calls"] = [_call(call, at) for at, call in enumerate(message.tool_calls)]
    if written["role"] == "tool":
        if message.tool_call_id:
            written["tool_call_id"] = message.tool_call_id
        # Templates know a result by its tool; a history that was cut may no longer say which one it was.
        name = names.get(message.tool_call_id or "", message.name)
        if name:
            written["tool_name"] = name
    return written


def _medium(part: Image | Audio, where: str) -> str:
    return image_base64(part, where) if isinstance(part, Image) else audio_base64(part, where)


def _call(call: ToolCall, at: int) -> JSON:
    written: JSON = {"function": {"index": at, "name": call.name, "arguments": _arguments(call.arguments)}}
    return {"id": call.id, **written} if call.id else written


def _arguments(text: str) -> JSON:
    """Return a call's arguments as the object that Ollama insists on; what a model wrote need not be one."""
    if not text.strip():
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"_raw": text}

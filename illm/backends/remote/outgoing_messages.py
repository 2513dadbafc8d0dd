"""A chat's messages as an OpenAI-like server gets them.

A message's content is written anew from its parsed parts, never copied: what was not looked at does not travel, so no
part can smuggle in an address that the server would open from inside the network.
"""

from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any

from illm.core.requests import Audio, Chat, Image, Message, Part, Text
from illm.errors import GatewayError, Kind

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
    (b"BM", "image/bmp"),
)

_REPLACED = frozenset({"content", "reasoning", "reasoning_content", "refusal", "annotations", "audio"})


def outgoing_messages(request: Chat) -> list[dict[str, Any]]:
    """Write the messages.

    Raises:
        GatewayError: an image is still an address: whoever fetches images has to come before.
    """
    given = request.body["messages"]
    return [
        _message(message, wire, f"messages[{at}]")
        for at, (message, wire) in enumerate(zip(request.messages, given, strict=True))
    ]


def data_url(image: Image) -> str:
    """Return an image as a data URL of the one form that every server reads.

    Raises:
        GatewayError: it is an address, or no base64.
    """
    if image.base64 is not None:
        return f"data:{_media_type(image.base64)};base64,{image.base64}"
    url = image.url or ""
    if url[:5].lower() != "data:":
        raise GatewayError(Kind.INTERNAL, "An image has not been fetched")
    return "data:" + url[5:]


def _message(message: Message, wire: dict[str, Any], path: str) -> dict[str, Any]:
    kept = {name: value for name, value in wire.items() if value is not None and name not in _REPLACED}
    if not message.tool_calls:
        kept.pop("tool_calls", None)
    if message.reasoning:
        kept["reasoning_content"] = message.reasoning
    if message.content or not message.tool_calls:
        kept["content"] = _content(message, path)
    return kept


def _content(message: Message, path: str) -> str | list[dict[str, Any]]:
    # Servers join text parts with and without line breaks; OpenAI means nothing in between.
    if all(isinstance(part, Text) for part in message.content):
        return message.text
    return [_part(part, f"{path}.content[{at}]") for at, part in enumerate(message.content)]


def _part(part: Part, path: str) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image():
            return {"type": "image_url", "image_url": {"url": data_url(part)}}
        case Audio(data, name):
            return {"type": "input_audio", "input_audio": {"data": data, "format": name}}


def _media_type(encoded: str) -> str:
    try:
        start = b64decode(encoded[:32] + "=" * (-len(encoded[:32]) % 4))
    except (Base64Error, ValueError):
        start = b""
    return next((kind for magic, kind in _MAGIC if start.startswith(magic)), "image/png")

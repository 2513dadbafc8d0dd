"""`POST /v1/chat/completions`: the request.

Lenient where clients in the wild are loose and the meaning is plain: a bare string as `image_url`, a replayed
assistant message with all its null keys, extra keys in a message (`annotations`, `reasoning_content`), which are
ignored.  Strict where guessing would change the conversation.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from illm.core.requests import Chat, Image, Message, Text
from illm.dialects.openai.json_body import convert, invalid
from illm.dialects.openai.sampling import GenerateWire, to_sampling, wants_usage
from illm.errors import GatewayError, Kind

MAX_MESSAGES = 2048
MAX_PARTS = 256
"""Parts of one message."""

_IMAGE_SCHEMES = ("http://", "https://", "data:")


class TextPart(Struct, tag_field="type", tag="text"):
    """Plain text."""

    text: str


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    """What an assistant said when it declined."""

    refusal: str


class ImageURL(Struct):
    """OpenAI's object around an image's address; no backend tells its details apart."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImageURLPart(Struct, tag_field="type", tag="image_url"):
    """An image by URL: OpenAI's object, or the bare string that is common in the wild."""

    image_url: str | ImageURL


class ImageBase64Part(Struct, tag_field="type", tag="image_base64"):
    """An image by value."""

    image_base64: Annotated[str, Meta(min_length=1)]


class AudioPart(Struct, tag_field="type", tag="input_audio"):
    """Known only to be refused by its name."""


class FilePart(Struct, tag_field="type", tag="file"):
    """Known only to be refused by its name."""


Part = TextPart | RefusalPart | ImageURLPart | ImageBase64Part | AudioPart | FilePart


class WireMessage(Struct):
    """A message as it comes; what its role allows is checked afterwards."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[Part], Meta(min_length=1, max_length=MAX_PARTS)] | None = None
    name: Annotated[str, Meta(max_length=512)] | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    function_call: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None


class ChatWire(GenerateWire, kw_only=True):
    """The JSON fields of a chat request."""

    messages: Annotated[list[WireMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]


_PARTS_OF_ROLE: dict[str, tuple[type, ...]] = {
    "system": (TextPart,),
    "developer": (TextPart,),
    "user": (TextPart, ImageURLPart, ImageBase64Part, AudioPart, FilePart),
    "assistant": (TextPart, RefusalPart),
}
"""Roles that can be answered, and what their messages may hold."""

_TOOL_FIELDS = ("tool_calls", "function_call", "audio")


def parse_chat(body: dict[str, Any]) -> Chat:
    """Parse a chat request.

    Args:
        body: the decoded JSON object; it stays with the request, so nobody should change it afterwards.

    Raises:
        GatewayError: a field is wrong; `param` names it (`messages[0].content[1].type`).
    """
    wire = convert(body, ChatWire)
    return Chat(
        messages=tuple(_message(message, f"messages[{at}]") for at, message in enumerate(wire.messages)),
        sampling=to_sampling(wire),
        model=wire.model,
        framework=wire.framework,
        stream=wire.stream,
        include_usage=wants_usage(wire),
        body=body,
    )


def _message(wire: WireMessage, path: str) -> Message:
    allowed = _PARTS_OF_ROLE.get(wire.role)
    if allowed is None:
        raise GatewayError(
            Kind.UNSUPPORTED_PARAMETER, f"{path}: messages of role '{wire.role}' are not supported.", param=path
        )
    for name in _TOOL_FIELDS:
        if getattr(wire, name):
            raise GatewayError(Kind.UNSUPPORTED_PARAMETER, f"{path}.{name} is not supported.", param=f"{path}.{name}")
    return Message(wire.role, _content(wire, path, allowed), wire.name)


def _content(wire: WireMessage, path: str, allowed: tuple[type, ...]) -> tuple[Text | Image, ...]:
    if isinstance(wire.content, str):
        return (Text(wire.content),)
    if wire.content is None:
        if wire.role != "assistant":
            raise invalid("this field is required", param=f"{path}.content")
        # An answer that was a refusal, or was empty, comes back without content when a client replays it.
        return (Text(wire.refusal),) if wire.refusal else ()
    parts = []
    for at, part in enumerate(wire.content):
        where = f"{path}.content[{at}]"
        if not isinstance(part, allowed):
            kind = part.__struct_config__.tag
            raise invalid(
                f"a part of type '{kind}' cannot be in a message of role '{wire.role}'", param=f"{where}.type"
            )
        parts.append(_part(part, where))
    return tuple(parts)


def _part(part: Part, where: str) -> Text | Image:
    match part:
        case TextPart(text=text) | RefusalPart(refusal=text):
            return Text(text)
        case ImageURLPart(image_url=ImageURL(url=url)):
            return _image(url, f"{where}.image_url.url")
        case ImageURLPart(image_url=str(url)):
            return _image(url, f"{where}.image_url")
        case ImageBase64Part(image_base64=text):
            return Image(url=text) if text[:5].lower() == "data:" else Image(base64=text)
        case _:
            kind = part.__struct_config__.tag
            raise GatewayError(
                Kind.CAPABILITY, f"Message parts of type '{kind}' are not supported.", param=f"{where}.type"
            )


def _image(url: str, where: str) -> Image:
    # Only these three, decided here: `file:` or a bare path must never travel on to something that would open it.
    if not url[:8].lower().startswith(_IMAGE_SCHEMES):
        raise invalid("expected an http, https or data URL", param=where)
    return Image(url=url)

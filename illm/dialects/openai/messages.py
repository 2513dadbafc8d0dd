"""The messages of a chat request: roles, content in its spellings, and the calls of tools in a conversation's past.

Lenient where clients in the wild are loose and the meaning is plain: a bare string as `image_url`, a replayed
assistant message with all its null keys, extra keys (`annotations`), which are ignored.  Strict where guessing would
change the conversation.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from illm.core.requests import Audio, Image, Message, Part, Text, ToolCall
from illm.dialects.openai.json_body import invalid
from illm.errors import GatewayError, Kind

MAX_PARTS = 256
"""Parts of one message."""

MAX_CALLS = 128
"""Tool calls of one message."""

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


class InputAudio(Struct):
    """Sound by value."""

    data: str
    format: Literal["wav", "mp3"] = "wav"


class AudioPart(Struct, tag_field="type", tag="input_audio"):
    """Sound to listen to."""

    input_audio: InputAudio


class FilePart(Struct, tag_field="type", tag="file"):
    """Known only to be refused by its name."""


WirePart = TextPart | RefusalPart | ImageURLPart | ImageBase64Part | AudioPart | FilePart


class CalledFunction(Struct):
    """What was called; `arguments` is text in OpenAI's protocol."""

    name: Annotated[str, Meta(min_length=1, max_length=512)]
    arguments: str | None = None


class WireToolCall(Struct):
    """A call in the conversation's past."""

    function: CalledFunction
    id: Annotated[str, Meta(max_length=512)] | None = None
    type: Literal["function"] | None = None


class WireMessage(Struct):
    """A message as it comes; what its role allows is checked afterwards."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[WirePart], Meta(min_length=1, max_length=MAX_PARTS)] | None = None
    name: Annotated[str, Meta(max_length=512)] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[list[WireToolCall], Meta(max_length=MAX_CALLS)] | None = None
    tool_call_id: Annotated[str, Meta(max_length=512)] | None = None
    function_call: CalledFunction | None = None
    audio: dict[str, Any] | None = None


_PARTS_OF_ROLE: dict[str, tuple[type, ...]] = {
    "system": (TextPart,),
    "developer": (TextPart,),
    "user": (TextPart, ImageURLPart, ImageBase64Part, AudioPart, FilePart),
    "assistant": (TextPart, RefusalPart),
    "tool": (TextPart,),
    "function": (TextPart,),
}
"""What the messages of a role may hold."""


def to_message(wire: WireMessage, path: str) -> Message:
    """Check a message against its role.

    Args:
        wire: what came.
        path: where in the body, for errors (`messages[0]`).

    Raises:
        GatewayError: it holds what its role may not, or what no backend can take.
    """
    if wire.audio:
        raise GatewayError(Kind.UNSUPPORTED_PARAMETER, f"{path}.audio is not supported.", param=f"{path}.audio")
    content = _content(wire, path)
    if wire.role == "assistant":
        return Message(
            wire.role,
            content,
            wire.name,
            tool_calls=_calls(wire),
            reasoning=wire.reasoning if wire.reasoning_content is None else wire.reasoning_content,
        )
    if wire.role == "tool" and wire.tool_call_id is None:
        raise invalid("this field is required", param=f"{path}.tool_call_id")
    if wire.role == "function" and not wire.name:
        raise invalid("this field is required", param=f"{path}.name")
    return Message(wire.role, content, wire.name, tool_call_id=wire.tool_call_id if wire.role == "tool" else None)


def _calls(wire: WireMessage) -> tuple[ToolCall, ...]:
    calls = [ToolCall(call.function.name, call.function.arguments or "", call.id) for call in wire.tool_calls or ()]
    if wire.function_call is not None:  # the predecessor of tools, which could call once and had no ids
        calls.append(ToolCall(wire.function_call.name, wire.function_call.arguments or ""))
    return tuple(calls)


def _content(wire: WireMessage, path: str) -> tuple[Part, ...]:
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
        if not isinstance(part, _PARTS_OF_ROLE[wire.role]):
            kind = part.__struct_config__.tag
            raise invalid(
                f"a part of type '{kind}' cannot be in a message of role '{wire.role}'", param=f"{where}.type"
            )
        parts.append(_part(part, where))
    return tuple(parts)


def _part(part: WirePart, where: str) -> Part:
    match part:
        case TextPart(text=text) | RefusalPart(refusal=text):
            return Text(text)
        case ImageURLPart(image_url=ImageURL(url=url)):
            return _image(url, f"{where}.image_url.url")
        case ImageURLPart(image_url=str(url)):
            return _image(url, f"{where}.image_url")
        case ImageBase64Part(image_base64=text):
            return Image(url=text) if text[:5].lower() == "data:" else Image(base64=text)
        case AudioPart(input_audio=InputAudio(data=data, format=name)):
            if not data:
                raise invalid("must not be empty", param=f"{where}.input_audio.data")
            return Audio(data, name)
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

"""What vLLM and SGLang have in common when they refuse: pure functions over decoded bodies, written from the documents.

Fields are tables of predicates (pydantic's types); what fits them and is out of range is the server's own complaint.
Where the two differ, `vllm_rules` and `sglang_rules` say how.
"""

import json
from base64 import b64decode
from binascii import Error
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

JSON = Mapping[str, Any]
Check = Callable[[Any], bool]

CONTEXT = 200
"""Words; the test servers' models count them for tokens."""

MOST_IMAGES = 2
IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")
SOUNDS = (b"RIFF", b"ID3", b"OggS", b"fLaC")


class Refusal(Exception):  # noqa: N818 - what it is called here
    """What a server answers instead of an answer; each writes it in a shape of its own.

    Args:
        message, param: as the server has them.
        kind: its word under `type`.
        nested: SGLang's shape differs by route.
    """

    def __init__(
        self,
        message: str,
        kind: str = "BadRequestError",
        *,
        status: int = 400,
        param: str | None = None,
        nested: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind, self.status, self.param, self.nested = kind, status, param, nested


class Untyped(Refusal):
    """What does not decode, or not to the right types."""

    def __init__(self, where: str, why: str) -> None:
        message = f"1 validation error:\n  {{'type': 'x', 'loc': 'body.{where}', 'msg': '{why}'}}"
        super().__init__(message, "Bad Request", param=f"body.{where}" if where else None)


@dataclass
class Noticed:
    """What the server did, or left undone, without a word to the client.

    Attributes:
        ignored: fields that it does not know, and that change nothing there.
        opened: addresses and files that it would open because a request names them.
        images, sounds: media that arrived with requests, decoded.
    """

    ignored: set[str] = field(default_factory=set)
    opened: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    sounds: list[bytes] = field(default_factory=list)


def integer(value: Any) -> bool:
    """Whether JSON has an integer there."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: Any) -> bool:
    """Whether JSON has a number there."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def text(value: Any) -> bool:
    """Whether JSON has a string there."""
    return isinstance(value, str)


def flag(value: Any) -> bool:
    """Whether JSON has a boolean there."""
    return isinstance(value, bool)


def mapping(value: Any) -> bool:
    """Whether JSON has an object there."""
    return isinstance(value, dict)


def listing(value: Any) -> bool:
    """Whether JSON has an array there."""
    return isinstance(value, list)


def texts(value: Any) -> bool:
    """Whether there is a string, or an array of them."""
    return text(value) or (listing(value) and all(map(text, value)))


def prompts(value: Any) -> bool:
    """Whether there is one of the four shapes of a prompt."""
    return texts(value) or (
        listing(value) and (all(map(integer, value)) or all(listing(one) and all(map(integer, one)) for one in value))
    )


def one_of(*words: str) -> Check:
    """Return the check for a literal."""
    return lambda value: text(value) and value in words


def choice_of_tools(value: Any) -> bool:
    """Whether there is a choice of tools of any form."""
    return mapping(value) or value in ("auto", "none", "required")


COMMON: Mapping[str, Check] = {
    "cache_salt": text,
    "frequency_penalty": number,
    "ignore_eos": flag,
    "logit_bias": mapping,
    "max_tokens": integer,
    "metadata": mapping,
    "min_p": number,
    "min_tokens": integer,
    "model": text,
    "n": integer,
    "presence_penalty": number,
    "priority": integer,
    "repetition_penalty": number,
    "response_format": mapping,
    "seed": integer,
    "skip_special_tokens": flag,
    "stop": texts,
    "stop_token_ids": listing,
    "stream": flag,
    "stream_options": mapping,
    "temperature": number,
    "top_k": integer,
    "top_p": number,
    "user": text,
}
CHAT = COMMON | {
    "chat_template_kwargs": mapping,
    "continue_final_message": flag,
    "logprobs": flag,
    "max_completion_tokens": integer,
    "messages": listing,
    "parallel_tool_calls": flag,
    "tool_choice": choice_of_tools,
    "tools": listing,
    "top_logprobs": integer,
}
COMPLETION = COMMON | {"echo": flag, "logprobs": integer, "prompt": prompts, "suffix": text}


def decode(raw: bytes, content_type: str) -> dict[str, Any]:
    """Decode a body of JSON.  Raises `Refusal`."""
    if content_type != "application/json":
        raise Refusal("Unsupported Media Type: Only 'application/json' is allowed", "Bad Request")
    try:
        body = json.loads(raw)
    except ValueError:
        raise Untyped("0", "JSON decode error") from None
    if not mapping(body):
        raise Untyped("", "Input should be a valid dictionary")
    return body


def check_types(body: JSON, known: Mapping[str, Check], noticed: Noticed, *, not_null: frozenset[str]) -> None:
    """Raise for the first field of a wrong type; remember what is not known."""
    for name, value in body.items():
        if name not in known:
            noticed.ignored.add(name)
        elif value is None:
            if name in not_null:
                raise Untyped(name, "Input should be a valid value")
        elif not known[name](value):
            raise Untyped(name, "Input should be of another type")


def within(body: JSON, name: str, low: float, high: float, *, above: bool = False) -> None:
    """Raise unless a number lies between two; `above` leaves the lower one out."""
    value = body.get(name)
    if value is not None and not (low < value <= high or (value == low and not above)):
        bracket = "(" if above else "["
        message = f"{name} must be in {bracket}{low}, {high}], got {value}. (parameter={name}, value={value})"
        raise Refusal(message, param=name)


def constraints(body: JSON) -> list[str]:
    """Name what constrains the text, of what both servers know."""
    kind = (body.get("response_format") or {}).get("type")
    return ["response_format"] if kind in ("json_object", "json_schema", "structural_tag") else []


def check_response_format(body: JSON) -> None:
    """Check OpenAI's constraint."""
    given = body.get("response_format")
    if given is None:
        return
    if given.get("type") not in ("text", "json_object", "json_schema", "structural_tag"):
        raise Untyped("response_format.type", "Input should be 'text', 'json_object' or 'json_schema'")
    if given["type"] == "json_schema":
        schema = (given.get("json_schema") or {}).get("schema")
        if not mapping(schema) or not text(given["json_schema"].get("name")):
            raise Refusal("When response_format type is 'json_schema', the 'json_schema' field must be provided.")
        if schema.get("type", "object") not in ("object", "array", "string", "number", "integer", "boolean", "null"):
            raise Refusal(f"Grammar error: Invalid type: {schema['type']}")


def named_tool(body: JSON) -> str | None:
    """Return the function that must be called, if one is named."""
    choice = body.get("tool_choice")
    return choice["function"]["name"] if mapping(choice) else None


def check_tools(body: JSON) -> None:
    """Check the tools' own shape."""
    for tool in body.get("tools") or ():
        function = tool.get("function") if mapping(tool) else None
        if not mapping(function) or tool.get("type", "function") != "function" or not text(function.get("name")):
            raise Untyped("tools.0.function", "Field required")
        if not mapping(function.get("parameters", {})):
            raise Untyped("tools.0.function.parameters", "Input should be a valid dictionary")
    choice = body.get("tool_choice")
    if mapping(choice) and (choice.get("type") != "function" or not mapping(choice.get("function"))):
        raise Untyped("tool_choice", "Input should be 'none', 'auto', 'required' or a named function")
    if mapping(choice) and named_tool(body) not in {tool["function"]["name"] for tool in body.get("tools") or ()}:
        raise Refusal("The tool specified in `tool_choice` does not match any of the specified `tools`")


def check_calls(message: JSON) -> None:
    """Check the calls of an assistant's turn."""
    for call in message.get("tool_calls") or ():
        if not mapping(call) or not text(call.get("id")) or not text(call["function"].get("name")):
            raise Untyped("messages.0.tool_calls", "Field required")
        if not isinstance(call["function"].get("arguments"), str | dict):
            raise Untyped("messages.0.tool_calls.0.function.arguments", "Input should be a valid string")


def decoded(encoded: str) -> bytes | None:
    """Decode base64 as strictly as a server does."""
    try:
        return b64decode(encoded, validate=True)
    except (Error, ValueError):
        return None


def parts_of_form(raw: bytes, content_type: str) -> Iterator[tuple[str, str | None, bytes]]:
    """Yield name, file name and content of the parts of a form, read by the standard library's parser of mail."""
    message = BytesParser(policy=HTTP).parsebytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + raw)
    if not message.is_multipart():
        raise Untyped("file", "Field required")
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        yield str(name), part.get_filename(), part.get_payload(decode=True) or b""

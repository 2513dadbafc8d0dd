"""What a real Ollama refuses, and in which words: pure functions over a decoded body, written from the document.

Its own strictness is Go's JSON decoder: a wrong type anywhere in a known field is a 400, an unknown field is nothing.
"""

from base64 import b64decode
from binascii import Error
from collections.abc import Callable, Mapping
from typing import Any

from backends.remote.openai_rules import parts_of_form

JSON = Mapping[str, Any]
CONTEXT = 512
"""Characters; the test server's models count them for tokens."""

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8")

OPTION_TYPES: Mapping[str, type] = dict.fromkeys(
    ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"), float
) | dict.fromkeys(("num_predict", "num_ctx", "num_keep", "seed", "top_k", "repeat_last_n", "num_batch"), int)


class Refusal(Exception):  # noqa: N818 - what it is called here
    """An answer of `status` with `{"error": message}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def _typed(body: JSON, name: str, *types: type, of: str = "") -> None:
    value = body.get(name)
    if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
        kind = type(value).__name__
        raise Refusal(400, f"json: cannot unmarshal {kind} into Go struct field {of}.{name}")


def check_model(body: JSON, models: Mapping[str, frozenset[str]]) -> tuple[str, frozenset[str]]:
    """Return the model's full name and what it can do."""
    _typed(body, "model", str)
    if not body.get("model"):
        raise Refusal(400, "model is required")
    name = body["model"].lower()
    full = name if ":" in name.rpartition("/")[2] else f"{name}:latest"
    if full not in models:
        raise Refusal(404, f"model '{body['model']}' not found")
    return full, models[full]


def check_generation(body: JSON, name: str, abilities: frozenset[str]) -> None:
    """Check what `/api/chat` and `/api/generate` have in common."""
    for field, types in {
        "stream": (bool,),
        "options": (dict,),
        "keep_alive": (int, float, str),
        "truncate": (bool,),
        "shift": (bool,),
        "logprobs": (bool,),
        "top_logprobs": (int,),
        "format": (str, dict),
    }.items():
        _typed(body, field, *types, of="Request")
    if isinstance(body.get("format"), str) and body["format"] not in ("", "json"):
        raise Refusal(400, f'invalid format: {body["format"]!r}; expected "json" or a valid JSON Schema object')
    think = body.get("think")
    if think is not None and think not in (True, False, "low", "medium", "high", "max"):
        raise Refusal(400, f"invalid think value: {think!r} (must be true, false, or a level)")
    if think and "thinking" not in abilities:
        raise Refusal(400, f'"{name}" does not support thinking')
    if not 0 <= (body.get("top_logprobs") or 0) <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")
    if "completion" not in abilities:
        raise Refusal(400, f'"{name}" does not support chat')
    check_options(body.get("options") or {})


def check_options(options: JSON) -> None:
    """Check the types of options, which is a 500 there; unknown names are none of its business."""
    for name, value in options.items():
        if name == "stop":
            if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                raise Refusal(500, 'option "stop" must be of type array')
            continue
        kind = OPTION_TYPES.get(name)
        if kind is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or (kind is int and value != int(value)):
            raise Refusal(500, f'option "{name}" must be of type {"integer" if kind is int else "float32"}')


def check_chat(body: JSON, name: str, abilities: frozenset[str]) -> None:
    """Check the messages and tools of `/api/chat`."""
    check_generation(body, name, abilities)
    _typed(body, "messages", list, of="ChatRequest")
    _typed(body, "tools", list, of="ChatRequest")
    for message in body.get("messages") or ():
        _check_message(message, abilities)
    if body.get("tools") and "tools" not in abilities:
        raise Refusal(400, f"registry.ollama.ai/library/{name} does not support tools")
    for tool in body.get("tools") or ():
        _typed(tool["function"], "parameters", dict, of="ToolFunction")
    length = sum(len(message.get("content") or "") for message in body.get("messages") or ())
    _check_length(body, length)


def check_generate(body: JSON, name: str, abilities: frozenset[str]) -> None:
    """Check what only `/api/generate` has."""
    check_generation(body, name, abilities)
    for field in ("prompt", "suffix", "system", "template"):
        _typed(body, field, str, of="GenerateRequest")
    if body.get("raw") and any(body.get(field) for field in ("template", "system", "context")):
        raise Refusal(400, "raw mode does not support template, system, or context")
    if body.get("suffix") and "insert" not in abilities:
        raise Refusal(400, f"registry.ollama.ai/library/{name} does not support insert")
    _check_length(body, len(body.get("prompt") or ""))


def check_embed(body: JSON, name: str, abilities: frozenset[str]) -> list[str]:
    """Check `/api/embed`, and return the inputs."""
    given = body.get("input")
    inputs = [given] if isinstance(given, str) else given if given is not None else []
    if not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
        raise Refusal(400, "invalid input type")
    _typed(body, "dimensions", int, of="EmbedRequest")
    check_options(body.get("options") or {})
    for text in inputs:
        if body.get("truncate") is False and len(text) > CONTEXT:
            raise Refusal(400, "the input length exceeds the context length")
    return inputs


def _check_length(body: JSON, length: int) -> None:
    if body.get("truncate") is False and length > CONTEXT:
        raise Refusal(400, "the input length exceeds the context length")


def _check_message(message: JSON, abilities: frozenset[str]) -> None:
    for field, types in {"role": (str,), "content": (str,), "thinking": (str,), "images": (list,)}.items():
        _typed(message, field, *types, of="Message")
    _typed(message, "tool_name", str, of="Message")
    _typed(message, "tool_call_id", str, of="Message")
    if message.get("role", "").lower() not in ("system", "user", "assistant", "tool"):
        raise Refusal(400, f"invalid role: {message.get('role')}")
    for call in message.get("tool_calls") or ():
        _typed(call["function"], "arguments", dict, of="ToolCallFunction")
        if not isinstance(call["function"].get("arguments"), dict):
            raise Refusal(400, "json: tool call without arguments")
    for image in message.get("images") or ():
        _check_image(image, abilities)


def _check_image(image: Any, abilities: frozenset[str]) -> None:
    try:
        data = b64decode(image, validate=True)
    except (Error, TypeError, ValueError):
        raise Refusal(400, "illegal base64 data at input byte 4") from None
    # From here on it is the runner that chokes: nothing looked at the image, or at what the model can do.
    if not abilities & {"vision", "audio"}:
        raise Refusal(500, "image input is not supported - hint: if this is unexpected, provide the mmproj")
    if not data.startswith(MAGIC):
        raise Refusal(500, "Failed to load image or audio file")


def check_transcription(raw: bytes, content_type: str, models: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    """Check the form of the OpenAI layer's one route for sound, and return its fields; `file` as bytes."""
    form: dict[str, Any] = {
        name: content if filename is not None else content.decode()
        for name, filename, content in parts_of_form(raw, content_type)
    }
    if not isinstance(form.get("file"), bytes):
        raise Refusal(400, "file is required")
    name, abilities = check_model(form, models)
    if "audio" not in abilities:
        raise Refusal(400, f'"{name}" does not support audio')
    if not form["file"].startswith(MAGIC):
        raise Refusal(500, "Failed to load image or audio file")
    return form


CHECKS: Mapping[str, Callable[[JSON, str, frozenset[str]], object]] = {
    "/api/chat": check_chat,
    "/api/generate": check_generate,
    "/api/embed": check_embed,
}

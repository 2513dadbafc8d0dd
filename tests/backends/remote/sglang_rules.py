"""What a real SGLang refuses, and in which words; what it does not know it ignores without a word, and that is noticed.

It is strict where vLLM is not (nulls, roles, the shape of images) and takes what vLLM refuses (any model's name, or
several choices at temperature 0).
"""

from collections.abc import Mapping
from typing import Any

from backends.remote.openai_rules import (
    CHAT,
    COMPLETION,
    CONTEXT,
    IMAGES,
    JSON,
    SOUNDS,
    Check,
    Noticed,
    Refusal,
    Untyped,
    check_calls,
    check_response_format,
    check_tools,
    check_types,
    constraints,
    decoded,
    flag,
    integer,
    listing,
    mapping,
    named_tool,
    number,
    parts_of_form,
    text,
    within,
)

MODEL = "m1"

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max")


def _effort(value: Any) -> bool:
    return value in EFFORTS or (number(value) and 0 <= value < 1)


_OWN: Mapping[str, Check] = {
    "custom_params": mapping,
    "ebnf": text,
    "extra_key": text,
    "lora_path": text,
    "no_stop_trim": flag,
    "regex": text,
    "return_hidden_states": flag,
    "rid": text,
    "session_params": mapping,
    "stop_regex": text,
}
SGLANG_CHAT = (
    CHAT
    | _OWN
    | {
        "reasoning": mapping,
        "reasoning_effort": _effort,
        "separate_reasoning": flag,
        "stream_reasoning": flag,
        "thinking": mapping,
    }
)
SGLANG_COMPLETION = COMPLETION | _OWN | {"best_of": integer, "json_schema": text}

NOT_NULL = frozenset(
    {
        "continue_final_message",
        "frequency_penalty",
        "ignore_eos",
        "logprobs",
        "messages",
        "min_tokens",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "separate_reasoning",
        "skip_special_tokens",
        "stream",
    }
)
COMPLETION_NOT_NULL = NOT_NULL - {"logprobs"} | {
    "echo",
    "max_tokens",
    "min_p",
    "prompt",
    "temperature",
    "top_k",
    "top_p",
}

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function", "latest_reminder", "root"})

FORM = frozenset({"file", "language", "model", "response_format", "stream", "temperature", "timestamp_granularities[]"})


def check_chat(body: JSON, noticed: Noticed, *, parses_tools: bool, sees: bool) -> str:
    """Check a chat, and return the text of its prompt."""
    if "messages" not in body:
        raise Untyped("messages", "Field required")
    check_types(body, SGLANG_CHAT, noticed, not_null=NOT_NULL)
    _check_adapter(body)
    if not body["messages"]:
        raise Refusal("Messages cannot be empty.")
    check_tools(body)
    choice = body.get("tool_choice")
    if not body.get("tools") and (mapping(choice) or choice == "required"):
        raise Refusal("Tools cannot be empty if tool choice is set to required.")
    constrained = constraints(body) or body.get("regex") or body.get("ebnf")
    if constrained and (choice == "required" or named_tool(body) is not None):
        raise Refusal("A constraint and a forced tool cannot be had together.")
    prompt = "\n".join(_turn(message, noticed, sees=sees) for message in body["messages"])
    _check_sampling(body, prompt)
    return prompt


def check_completion(body: JSON, noticed: Noticed) -> list[str]:
    """Check a completion, and return its prompts."""
    check_types(body, SGLANG_COMPLETION, noticed, not_null=COMPLETION_NOT_NULL)
    _check_adapter(body)
    given = body.get("prompt")
    if not given:
        raise Refusal("Prompt cannot be empty", "BadRequest")
    if body.get("max_tokens") is not None and body["max_tokens"] <= 0:
        raise Untyped("max_tokens", "Input should be greater than 0")
    several = listing(given) and not integer(given[0])
    found = [one if text(one) else " ".join(map(str, one)) for one in (given if several else [given])]
    for prompt in found:
        _check_sampling(body, prompt)
    return found


def _check_adapter(body: JSON) -> None:
    base, colon, adapter = (body.get("model") or "").partition(":")
    if colon:
        raise Refusal(f"The LoRA adapter {adapter!r} of {base!r} is not loaded", "BadRequest")


def _check_sampling(body: JSON, prompt: str) -> None:
    temperature = body.get("temperature")
    if temperature is not None and temperature < 0:
        raise Refusal(f"temperature must be a non-negative finite number, got {temperature}.")
    within(body, "top_p", 0, 1, above=True)
    within(body, "min_p", 0, 1)
    within(body, "repetition_penalty", 0, 2, above=True)
    within(body, "n", 1, 2**31)
    for name in ("presence_penalty", "frequency_penalty"):
        within(body, name, -2, 2)
    top_k = body.get("top_k")
    if top_k is not None and top_k != -1 and top_k < 1:
        raise Refusal(f"top_k must be -1 (disable) or at least 1, got {top_k}.")
    stop = body.get("stop")
    if len([stop] if text(stop) else stop or []) > 32:
        raise Refusal("stop holds too many strings")
    check_response_format(body)
    found = [*constraints(body), *(name for name in ("regex", "ebnf", "json_schema") if body.get(name))]
    if len(found) > 1:
        raise Refusal("Only one of regex, json_schema, or ebnf can be set.", "BadRequest")
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    size = len(prompt.split())
    if limit < 0:
        raise Refusal(f"max_new_tokens must be at least 0, got {limit}.")
    if size >= CONTEXT:
        raise Refusal(f"The input ({size} tokens) is longer than the model's context length ({CONTEXT} tokens).")
    if size + limit > CONTEXT:
        raise Refusal(f"Requested token count exceeds the model's maximum context length of {CONTEXT} tokens.")


def _turn(message: Any, noticed: Noticed, *, sees: bool) -> str:
    role = message.get("role") if mapping(message) else None
    if not text(role) or role.lower() not in ROLES:
        raise Untyped("messages.0.role", "'role' must be one of 'system', 'assistant', 'tool' and others")
    check_calls(message)
    content = message.get("content")
    if content is None and role == "assistant":
        return "assistant:"
    if text(content):
        return f"{role}: {content}"
    if not listing(content):
        raise Untyped("messages.0.content", "Input should be a valid string")
    return f"{role}: " + " ".join(_part(part, noticed, sees=sees) for part in content)


def _part(part: Any, noticed: Noticed, *, sees: bool) -> str:
    kind = part.get("type") if mapping(part) else None
    match part:
        case {"type": "text", "text": str(said)}:
            return said
        case {"type": "image_url", "image_url": {"url": str(url), **more}}:
            if more.get("detail") not in (None, "default", "auto", "low", "high"):
                raise Untyped("messages.0.content.0.image_url.detail", "Input should be 'auto', 'low' or 'high'")
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": "wav" | "mp3"}}:
            sound = decoded(data)
            if sound is None or not sound.startswith(SOUNDS):
                raise Refusal("An exception occurred while loading audio", "BadRequest")
            noticed.sounds.append(sound)
            return ""
        case _:
            raise Untyped("messages.0.content.0", f"Input tag {kind!r} does not match any of the expected tags")
    if not sees:
        raise Refusal("Model only supports text input; received unsupported content type 'image_url'.")
    noticed.images.append(_image(url, noticed))
    return ""


def _image(url: str, noticed: Noticed) -> bytes:
    """Load it from wherever it is said to be: data, an address, a file, or bare base64."""
    head, comma, encoded = url.partition(",")
    if url.startswith("data:"):
        image = decoded(encoded) if comma and head.endswith(";base64") else None
    elif url.startswith(("http:", "https:", "file:", "/")):
        noticed.opened.append(url)
        image = None
    else:
        image = decoded(url)
    if image is None or not image.startswith(IMAGES):
        raise Refusal("An exception occurred while loading multimodal data", "BadRequest")
    return image


def check_transcription(raw: bytes, content_type: str, noticed: Noticed) -> dict[str, Any]:
    """Check a form, and return its fields: lists where the name says so, `file` as bytes."""
    form: dict[str, Any] = {}
    for name, filename, content in parts_of_form(raw, content_type):
        if name not in FORM:
            noticed.ignored.add(name)
        if name == "file" and filename is not None:
            form[name] = content
        elif name.endswith("[]"):
            form.setdefault(name, []).append(content.decode())
        else:
            form[name] = content.decode()
    if not isinstance(form.get("file"), bytes):
        raise Untyped("file", "Field required")
    if form.get("response_format", "json") not in ("json", "text", "verbose_json"):
        raise Refusal("Only 'json', 'text', and 'verbose_json' formats supported", nested=True)
    if not form["file"].startswith(SOUNDS):
        raise Refusal("Failed to load audio", "BadRequest")
    noticed.sounds.append(form["file"])
    return form

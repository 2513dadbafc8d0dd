"""What a real TGI refuses, and in which words: pure functions over a decoded body, written from the document.

Its types are serde's: what does not fit one is plain text and 422; what fits and is out of range is JSON and 422.
"""

import re
from collections.abc import Mapping
from typing import Any

JSON = Mapping[str, Any]

CONTEXT = 96
"""Words; the test server's models count them for tokens."""

IMAGE = re.compile(r"!\[\]\(([^)]*)\)")
"""What TGI takes for an image in any text of the prompt."""


class Undecodable(Exception):  # noqa: N818 - what it is called here
    """A body that does not decode: plain text."""

    def __init__(self, why: str, status: int = 422) -> None:
        super().__init__(f"Failed to deserialize the JSON body into the target type: {why}")
        self.status = status


class Refusal(Exception):  # noqa: N818 - what it is called here
    """`{"error", "error_type"}`, or what the endpoint makes of it."""

    def __init__(self, message: str, kind: str = "validation", status: int = 422) -> None:
        prefix = {"validation": "Input validation error: ", "tool_error": "Tool error: "}.get(kind, "")
        super().__init__(prefix + message)
        self.kind, self.status = kind, status


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _grammar(value: Any) -> bool:
    known = _object(value) and value.get("type") in ("json", "json_object", "json_schema", "regex") and "value" in value
    return known and (isinstance(value["value"], str) if value["type"] == "regex" else True)


NATIVE = {
    "adapter_id": _text,
    "best_of": _integer,
    "frequency_penalty": _number,
    "grammar": _grammar,
    "max_new_tokens": _integer,
    "repetition_penalty": _number,
    "return_full_text": _flag,
    "seed": _integer,
    "temperature": _number,
    "top_k": _integer,
    "top_n_tokens": _integer,
    "top_p": _number,
    "truncate": _integer,
    "typical_p": _number,
}
NATIVE_NOT_NULL = {
    "decoder_input_details": _flag,
    "details": _flag,
    "do_sample": _flag,
    "stop": _strings,
    "watermark": _flag,
}

CHAT = {
    "frequency_penalty": _number,
    "logit_bias": lambda value: isinstance(value, list) and all(map(_number, value)),
    "logprobs": _flag,
    "max_tokens": _integer,
    "model": _text,
    "n": _integer,
    "presence_penalty": _number,
    "response_format": _grammar,
    "seed": _integer,
    "stop": _strings,
    "temperature": _number,
    "tool_choice": lambda value: value in ("auto", "none", "required") or _object(value) or _text(value),
    "tool_prompt": _text,
    "tools": lambda value: isinstance(value, list),
    "top_logprobs": _integer,
    "top_p": _number,
}
CHAT_NOT_NULL = {"messages": lambda value: isinstance(value, list), "stream": _flag, "stream_options": _object}


def check_types(body: JSON, nullable: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise `Undecodable` for the first field of a wrong type; unknown fields are nothing."""
    for name, value in body.items():
        if name in other and not other[name](value):
            raise Undecodable(f"{name}: invalid type: {value!r}")
        if name in nullable and value is not None and not nullable[name](value):
            raise Undecodable(f"{name}: invalid type: {value!r}")


def check_native(body: Any, *, stream: bool) -> JSON:
    """Check a native request and return its parameters, with the defaults that TGI puts in."""
    if not _object(body) or not _text(body.get("inputs")):
        raise Undecodable("missing field `inputs` at line 1 column 2")
    given = body.get("parameters")
    if given is None:
        given = {"do_sample": True}
    if not _object(given):
        raise Undecodable("invalid type for `parameters`")
    check_types(given, NATIVE, NATIVE_NOT_NULL)
    best_of = 1 if given.get("best_of") is None else given["best_of"]
    if stream and best_of != 1:
        raise Refusal("`best_of` != 1 is not supported when streaming tokens")
    if stream and given.get("decoder_input_details"):
        raise Refusal("`decoder_input_details` == true is not supported when streaming tokens")
    if not 0 < best_of <= 2:
        raise Refusal(f"`best_of` must be > 0 and <= 2. Given: {best_of}")
    if best_of > 1 and not samples(given):
        raise Refusal("you must use sampling when `best_of` is > 1")
    if best_of > 1 and given.get("seed") is not None:
        raise Refusal("`seed` must not be set when `best_of` > 1")
    if (top := given.get("top_n_tokens") or 0) > 5:
        raise Refusal(f"`top_n_tokens` must be >= 0 and <= 5. Given: {top}")
    check_ranges(given)
    check_length(body["inputs"], given.get("max_new_tokens"))
    return given


def samples(given: JSON) -> bool:
    """Whether the model server samples, whatever `do_sample` says."""
    return bool(given.get("do_sample")) or any(
        given.get(name) not in off
        for name, off in {"temperature": (None, 1), "top_k": (None,), "top_p": (None,), "typical_p": (None,)}.items()
    )


def check_ranges(given: JSON) -> None:
    """Check what both endpoints check."""

    def value(name: str) -> Any:
        return given.get(name)

    for name in ("temperature", "repetition_penalty", "top_k"):
        if value(name) is not None and value(name) <= 0:
            raise Refusal(f"`{name}` must be strictly positive")
    for name in ("top_p", "typical_p"):
        if value(name) is not None and not 0 < value(name) < 1:
            raise Refusal(f"`{name}` must be > 0.0 and < 1.0")
    if value("frequency_penalty") is not None and not -2 <= value("frequency_penalty") <= 2:
        raise Refusal("`frequency_penalty` must be >= -2.0 and <= 2.0")
    if value("max_new_tokens") == 0:
        raise Refusal("`max_new_tokens` must be strictly positive")
    if len(value("stop") or ()) > 4:
        raise Refusal(f"`stop` supports up to 4 stop sequences. Given: {len(value('stop'))}")
    if value("seed") is not None and value("seed") >= 2**64:
        raise Undecodable("seed: invalid value, expected u64")
    grammar = value("grammar")
    if grammar and grammar["type"] != "regex" and "properties" not in grammar["value"]:
        raise Refusal("grammar is not valid: Properties are required")


def check_length(text: str, new: int | None) -> None:
    """Check the prompt."""
    if not text:
        raise Refusal("`inputs` cannot be empty")
    size = len(text.split())
    if size >= CONTEXT:
        raise Refusal(f"`inputs` must have less than {CONTEXT} tokens. Given: {size}")
    if new is not None and size + new > CONTEXT:
        raise Refusal(
            f"`inputs` tokens + `max_new_tokens` must be <= {CONTEXT}. Given: {size} `inputs` tokens and {new} "
            "`max_new_tokens`"
        )


def check_chat(body: Any) -> str:
    """Check a chat and return its prompt's text."""
    if not _object(body) or "messages" not in body:
        raise Undecodable("missing field `messages`")
    if "max_tokens" in body and "max_completion_tokens" in body:
        raise Undecodable("duplicate field `max_tokens`")
    check_types(body, CHAT, CHAT_NOT_NULL)
    prompt = "\n".join(_turn(message) for message in body["messages"])
    for tool in body.get("tools") or ():
        function = tool.get("function") if _object(tool) else None
        if not _object(function) or not ("parameters" in function or "arguments" in function):
            raise Undecodable("tools: missing field `parameters`")
        prompt += f"\n{tool}"
    if body.get("tools") and body.get("response_format"):
        raise Refusal("Grammar and tools are mutually exclusive", "tool_error")
    if (body.get("top_logprobs") or 0) > 5:
        raise Refusal(f"`top_n_tokens` must be >= 0 and <= 5. Given: {body['top_logprobs']}")
    native = {
        **body,
        "temperature": body.get("temperature") or None,
        "max_new_tokens": body.get("max_tokens"),
        "grammar": body.get("response_format"),
    }
    check_ranges(native)
    check_length(prompt, native["max_new_tokens"])
    return prompt + "\n" + str(body.get("tool_prompt") or "")


def _turn(message: Any) -> str:
    if not _object(message) or not _text(message.get("role")):
        raise Undecodable("messages: missing field `role`")
    content, calls = message.get("content"), message.get("tool_calls")
    if content is not None:
        # The first that fits wins, so calls beside a content are lost.
        return f"{message['role']}: {_content(content)}"
    if not isinstance(calls, list):
        raise Undecodable("messages: data did not match any variant of untagged enum MessageBody")
    for call in calls:
        if not _text(call.get("id")) or not _text(call["function"].get("name")) or "arguments" not in call["function"]:
            raise Undecodable("messages: tool_calls: missing field")
    return f"{message['role']}: {calls}"


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    text = ""
    for part in content if isinstance(content, list) else [None]:
        match part:
            case {"type": "text", "text": str(said)}:
                text += said
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                text += f"![]({url})"
            case _:
                raise Undecodable("messages: content: data did not match any variant of untagged enum MessageContent")
    return text

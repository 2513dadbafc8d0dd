"""Which request fields mean what: the one table behind "nothing is dropped silently".

A field is *carried* (it reaches the backend in a request's own attributes), *bookkeeping* (accepted and ignored: it
changes nothing about the answer), or *optional* (it changes the answer, so a backend either lists it or the client
is told).  A field in none of the three is unknown, and is an error too: a misspelt field that looks like a success
is worse than a refusal.
"""

from collections.abc import Callable, Mapping
from typing import Any

from illm.errors import GatewayError, Kind

ROUTING = frozenset({"model", "framework"})

SAMPLING = frozenset(
    {
        "ignore_eos",
        "max_completion_tokens",
        "max_tokens",
        "n",
        "repetition_penalty",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_k",
        "top_p",
    }
)

CHAT_FIELDS = ROUTING | SAMPLING | {"messages"}
COMPLETION_FIELDS = ROUTING | SAMPLING | {"prompt"}
EMBEDDING_FIELDS = ROUTING | {"dimensions", "embedding_model", "encoding_format", "input"}
RERANK_FIELDS = ROUTING | {"documents", "query", "return_documents", "top_n"}
TOKENIZE_FIELDS = ROUTING | {"add_special_tokens", "messages", "prompt", "return_token_strs"}
DETOKENIZE_FIELDS = ROUTING | {"tokens"}
EVERY_FIELD = CHAT_FIELDS | COMPLETION_FIELDS | EMBEDDING_FIELDS

BOOKKEEPING = frozenset(
    {
        "metadata",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)

Harmless = Callable[[Any, Mapping[str, Any]], bool]
"""Given the value and the whole body: does this value ask for nothing beyond the default?"""


def _any_of(*values: object) -> Harmless:
    # Types are compared too: for completions `logprobs: 0` asks for something, `false` does not.
    return lambda value, body: any(value == known and type(value) is type(known) for known in values)


def _as_many_as_n(value: object, body: Mapping[str, Any]) -> bool:
    return type(value) is int and value == (body.get("n") or 1)


def _without_tools(value: object, body: Mapping[str, Any]) -> bool:
    return value is True or not body.get("tools")


_ZERO = _any_of(0, 0.0)
_ONE = _any_of(1, 1.0)
_FALSE = _any_of(False)
_TRUE = _any_of(True)
_NEVER: Harmless = lambda value, body: False  # noqa: E731 - a row's value, like its neighbours

OPTIONAL: dict[str, Harmless] = {
    "add_generation_prompt": _TRUE,
    "audio": _NEVER,
    "best_of": _as_many_as_n,
    "chat_template": _NEVER,
    "chat_template_kwargs": _any_of({}),
    "continue_final_message": _FALSE,
    "echo": _FALSE,
    "frequency_penalty": _ZERO,
    "function_call": _any_of("none", "auto"),
    "functions": _any_of([]),
    "length_penalty": _ONE,
    "logit_bias": _any_of({}),
    "logprobs": _FALSE,
    "min_p": _ZERO,
    "min_tokens": _ZERO,
    "modalities": _any_of(["text"]),
    "parallel_tool_calls": _without_tools,
    "presence_penalty": _ZERO,
    "priority": _ZERO,
    "prompt_logprobs": _FALSE,
    "prompt_name": _NEVER,
    "reasoning_effort": _any_of("none"),
    "response_format": _any_of({"type": "text"}),
    "skip_special_tokens": _TRUE,
    "stop_token_ids": _any_of([]),
    "suffix": _any_of(""),
    "tool_choice": _any_of("none", "auto"),
    "tools": _any_of([]),
    "top_logprobs": _ZERO,
    "truncate": _FALSE,
    "truncate_prompt_tokens": _NEVER,
    "typical_p": _ONE,
    "use_beam_search": _FALSE,
    "web_search_options": _NEVER,
}
"""Fields that change the answer, and which of their values do not."""

STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})


ANYTHING = "*"
"""In `supported`: the backend speaks this dialect itself, gets every field, and refuses what it cannot do."""


def unsupported(
    body: Mapping[str, Any], supported: frozenset[str] = frozenset(), *, fields: frozenset[str] = EVERY_FIELD
) -> GatewayError | None:
    """Find the first field that a backend would have to drop although it changes the answer.

    Args:
        body: the decoded request; a null counts as absent.
        supported: the fields beyond the carried ones that the backend honours (`{"tools", "logprobs"}`; an option
            of the stream as `stream_options.continuous_usage_stats`); `tools` covers the tool calls in messages too.
        fields: the fields that the endpoint carries; narrower than the default, it also catches another endpoint's.

    Returns:
        The error to answer with (400, `unsupported_parameter`, `param` names the field), or `None`.
    """
    if ANYTHING in supported:
        return None
    accepted = fields | supported | BOOKKEEPING
    for name, value in body.items():
        if name in accepted or value is None:
            continue
        harmless = OPTIONAL.get(name)
        if harmless is None:
            return _refusal(name, f"Unknown parameter: '{name[:100]}'.")
        if not harmless(value, body):
            return _refusal(name, f"The parameter '{name}' is not supported here with this value.")
    options = body.get("stream_options")
    for name, value in options.items() if isinstance(options, Mapping) else ():
        path = f"stream_options.{name}"
        if name not in STREAM_OPTIONS and path not in supported and value is not None and value is not False:
            return _refusal(path, f"Unknown parameter: '{path[:100]}'.")
    return None if "tools" in supported else _tools_in_history(body.get("messages"))


def _tools_in_history(messages: object) -> GatewayError | None:
    for at, message in enumerate(messages if isinstance(messages, list) else ()):
        path = f"messages[{at}]"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role in ("tool", "function"):
            return _refusal(path, f"{path}: messages of role '{role}' are not supported.")
        for name in ("tool_calls", "function_call") if role == "assistant" else ():
            if message.get(name):
                return _refusal(f"{path}.{name}", f"{path}.{name} is not supported.")
    return None


def _refusal(param: str, message: str) -> GatewayError:
    return GatewayError(Kind.UNSUPPORTED_PARAMETER, message, param=param[:100])

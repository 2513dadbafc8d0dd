"""Requests as the bodies of `/api/chat`, `/api/generate` and `/api/embed`.

Three of Ollama's defaults would change an answer's meaning behind the client's back, and are sent switched off unless
the client switches them on: `think` (a model that can think does, unasked, and spends the token limit on it),
`truncate` (the oldest messages are dropped to fit) and `shift` (the oldest tokens are, so that it may never end).
"""

from collections.abc import Mapping
from typing import Any

from illm.core.requests import Chat, Completion, Embed, Generate, ResponseFormat, Sampling
from illm.dialects.ollama.messages import JSON, write_messages, write_tools
from illm.errors import GatewayError, Kind

MAX_TOP_LOGPROBS = 20

OPTIONS: Mapping[str, str] = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop",
    "seed": "seed",
}
"""Ollama's option to our field of `Sampling`; what the client left open is left to the model's own file."""

THINK: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}
"""OpenAI's `reasoning_effort` to `think`."""

THINK_LEVELS = (True, False, "low", "medium", "high", "max")

SWITCHED_OFF: Mapping[str, bool] = {"truncate": False, "shift": False}

CHAT_ONLY = ("tools", "functions", "response_format", "think", "reasoning_effort")
COMPLETION_ONLY = ("suffix", "echo")
"""Fields that the other endpoint honours, and this one would drop; the table of supported fields knows no endpoints."""

_HARMLESS: tuple[Any, ...] = (None, False, "", "none", [], {"type": "text"})

_SEEDS = 2**31 - 1


def chat_body(request: Chat) -> JSON:
    """Write the body of `/api/chat`.

    Raises:
        GatewayError: something that changes the answer's meaning cannot be honoured; `param` names it.
    """
    body = _generated(request) | {"messages": write_messages(request.messages), "think": _think(request)}
    choice = request.tool_choice.mode if request.tool_choice is not None else "auto"
    if choice not in ("auto", "none"):
        raise _refused("tool_choice", "Ollama cannot be made to call a tool; only 'auto' and 'none' can be honoured")
    if request.tools and choice == "auto":
        for at, tool in enumerate(request.tools):
            if tool.strict:
                raise _refused(f"tools[{at}].function.strict", "Ollama does not constrain a tool's arguments")
        body["tools"] = write_tools(request.tools)
    form = _format(request.response_format)
    return body if form is None else body | {"format": form}


def generate_body(request: Completion) -> JSON:
    """Write the body of `/api/generate`: the prompt as it is, without the model's template.

    Raises:
        GatewayError: as `chat_body`.
    """
    (prompt,) = request.prompts  # one at a time: see `fan_out`
    if not isinstance(prompt, str):
        raise _refused("prompt", "Ollama takes text, not token ids")
    if not prompt:
        raise _refused("prompt", "Ollama continues no empty prompt")
    if request.echo and request.sampling.logprobs is not None:
        raise _refused("echo", "Ollama gives no log-probabilities of a prompt")
    # Only with its template does a model know what comes after the gap; without a gap the template would answer.
    how = {"raw": True} if request.suffix is None else {"suffix": request.suffix}
    return _generated(request) | {"prompt": prompt, "think": False} | how


def embed_body(request: Embed) -> JSON:
    """Write the body of `/api/embed`.

    Raises:
        GatewayError: token ids, which Ollama does not take.
    """
    for at, text in enumerate(request.inputs):
        if not isinstance(text, str):
            raise _refused(f"input[{at}]", "Ollama takes text, not token ids")
    body: JSON = {"model": request.model, "input": list(request.inputs), "truncate": False}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return body | _vendor(request.body, ("truncate", "keep_alive", "options"))


def _generated(request: Generate) -> JSON:
    sampling, options = request.sampling, {}
    _refuse(request, sampling)
    for theirs, ours in OPTIONS.items():
        value = getattr(sampling, ours)
        if value is not None and value != ():
            options[theirs] = list(value) if ours == "stop" else value
    if sampling.seed is not None:
        # Their -1 stands for a random seed, as does its 32-bit twin; a client's is a seed like any other.
        options["seed"] = sampling.seed % _SEEDS
    vendor = _vendor(request.body, ("truncate", "shift", "keep_alive", "options"))
    options |= vendor.pop("options", {})
    body: JSON = {"model": request.model, "stream": request.stream, **SWITCHED_OFF, **vendor}
    if options:
        body["options"] = options
    if sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    return body


def _refuse(request: Generate, sampling: Sampling) -> None:
    """Raise for what Ollama would ignore, or misread."""
    for name in COMPLETION_ONLY if isinstance(request, Chat) else CHAT_ONLY:
        if request.body.get(name) not in _HARMLESS:
            raise _refused(name, "it belongs to another endpoint")
    if sampling.n != 1:
        raise _refused("n", "Ollama makes one choice at a time")
    if sampling.logit_bias:
        raise _refused("logit_bias", "Ollama does not offer it")
    if sampling.ignore_eos:
        raise _refused("ignore_eos", "Ollama does not offer it")
    if sampling.max_tokens == 0:
        raise _refused("max_tokens", "Ollama cannot generate nothing")
    if (sampling.logprobs or 0) > MAX_TOP_LOGPROBS:
        name = "top_logprobs" if isinstance(request, Chat) else "logprobs"
        raise _refused(name, f"Ollama gives at most {MAX_TOP_LOGPROBS} alternatives")


def _think(request: Chat) -> bool | str:
    told = request.body.get("think")
    if told is not None:
        if told not in THINK_LEVELS or not isinstance(told, bool | str):
            raise _wrong("think", "expected a boolean, 'low', 'medium', 'high' or 'max'")
        return told
    effort = request.reasoning_effort
    if effort is None:
        return False
    if effort not in THINK:
        raise _wrong("reasoning_effort", f"expected one of {', '.join(THINK)}")
    return THINK[effort]


def _format(wanted: ResponseFormat | None) -> str | JSON | None:
    match wanted:
        case None | ResponseFormat(type="text"):
            return None
        case ResponseFormat(type="json_schema", schema=schema) if schema:
            return dict(schema)
        case ResponseFormat(type="json_object" | "json_schema"):
            return "json"
        case _:
            raise _refused("response_format.type", "Ollama knows text, json_object and json_schema")


_VENDOR: Mapping[str, tuple[tuple[type, ...], str]] = {
    "truncate": ((bool,), "a boolean"),
    "shift": ((bool,), "a boolean"),
    "keep_alive": ((int, float, str), "seconds or a duration such as '10m'"),
    "options": ((dict,), "an object"),
}


def _vendor(body: Mapping[str, Any], names: tuple[str, ...]) -> JSON:
    """Return those of Ollama's own fields that the client has given.  Null is the same as nothing."""
    given: JSON = {}
    for name in names:
        value = body.get(name)
        types, words = _VENDOR[name]
        if value is None:
            continue
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise _wrong(name, f"expected {words}")
        given[name] = dict(value) if isinstance(value, dict) else value
    return given


def _refused(param: str, why: str) -> GatewayError:
    return GatewayError(Kind.UNSUPPORTED_PARAMETER, f"The parameter '{param}' is not supported: {why}.", param=param)


def _wrong(param: str, what: str) -> GatewayError:
    return GatewayError(Kind.INVALID_REQUEST, f"{param}: {what}", param=param)

"""What TGI and TEI say when they refuse or fail: their words to the rows of our table.

Neither the status nor the body can be believed alone.  In a stream everything comes under 200, on `/v1` with a 422 that
says nothing; bodies that do not decode are plain text.  What is always true is `error_type`, and where that is missing
the words a message begins with.
"""

import re
from collections.abc import Mapping

from illm.backends.remote.scrub import scrub
from illm.backends.remote.upstream_errors import CONTEXT_LENGTH, Complaint, upstream_error
from illm.core.requests import Chat, Completion, Embed, Request
from illm.errors import GatewayError, Kind

TYPES: Mapping[str, Kind] = {
    "validation": Kind.INVALID_REQUEST,
    "generation": Kind.UPSTREAM,
    "overloaded": Kind.OVERLOADED,
    "incomplete_generation": Kind.UPSTREAM,
    "incomplete_generation_stream": Kind.UPSTREAM,
    "stream_serialization_error": Kind.UPSTREAM,
    "template_error": Kind.INVALID_REQUEST,
    "missing_template_variable": Kind.INVALID_REQUEST,
    "tool_error": Kind.INVALID_REQUEST,
    "suffix not supported": Kind.INVALID_REQUEST,
    "batch size exceeded": Kind.INVALID_REQUEST,
    "healthcheck": Kind.UNREACHABLE,
    # TEI's, which it writes with capitals
    "unhealthy": Kind.UNREACHABLE,
    "backend": Kind.UPSTREAM,
    "tokenizer": Kind.INVALID_REQUEST,
    "empty": Kind.INVALID_REQUEST,
}
"""`error_type`, in lower case."""

BEGINNINGS: Mapping[str, str] = {
    "Input validation error": "validation",
    "Request failed during generation": "generation",
    "Model is overloaded": "overloaded",
    "Incomplete generation": "incomplete_generation",
    "Template error": "template_error",
    "Missing template vatiable": "missing_template_variable",  # sic
    "Missing template variable": "missing_template_variable",
    "Tool error": "tool_error",
    "Failed to deserialize": "validation",
    "unhealthy": "healthcheck",
}
"""How a message begins that comes without its type, and the type."""

PARAMS: Mapping[str, str] = {
    "best_of": "best_of",
    "frequency_penalty": "frequency_penalty",
    "max_new_tokens": "max_tokens",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
    "stop": "stop",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_n_tokens": "logprobs",
    "top_p": "top_p",
    "truncate": "truncate",
    "typical_p": "typical_p",
}
"""TGI's names of parameters, as its messages quote them, and the client's."""

_QUOTED = re.compile(r"`(\w+)`")
_INPUTS: tuple[tuple[type, str], ...] = ((Chat, "messages"), (Completion, "prompt"), (Embed, "input"))


def tgi_error(
    framework: str, request: Request, status: int, complaint: Complaint, headers: Mapping[bytes, bytes] | None = None
) -> GatewayError:
    """Make the error a client is told about.

    Args:
        framework: `tgi`, or `tei` for the server beside it; for messages.
        request: what was asked, to name the parameter at fault.
        status: HTTP status, or 200 for an error in an answer that had begun well.
        complaint: what the server said.
        headers: of the response, names in lower case.
    """
    kind = None if status in (401, 403) else _kind(complaint)
    if kind is None:
        return upstream_error(framework, request, status, complaint, headers)
    message = scrub(complaint.message) or "no reason given"
    if kind is Kind.INVALID_REQUEST and CONTEXT_LENGTH.search(complaint.message):
        kind = Kind.CONTEXT_LENGTH
    if kind in (Kind.INVALID_REQUEST, Kind.CONTEXT_LENGTH):
        return GatewayError(kind, message, param=_param(kind, request, complaint))
    # The header's reading is the same for every backend.
    retry_after = upstream_error(framework, request, kind.value.status, Complaint(), headers).retry_after
    return GatewayError(kind, f"The {framework} server answered: {message}", retry_after=retry_after)


def _kind(complaint: Complaint) -> Kind | None:
    known = TYPES.get((complaint.type or "").lower())
    if known is not None:
        return known
    return next((TYPES[name] for words, name in BEGINNINGS.items() if complaint.message.startswith(words)), None)


def _param(kind: Kind, request: Request, complaint: Complaint) -> str | None:
    source = next((name for known, name in _INPUTS if isinstance(request, known)), None)
    if kind is Kind.CONTEXT_LENGTH:
        return source
    if (complaint.type or "").lower() == "tool_error" or complaint.message.startswith("Tool error"):
        return "tools"
    words = complaint.message.lower()
    if "grammar" in words:
        return "response_format" if isinstance(request, Chat) else "grammar"
    if "image" in words:
        return source
    for quoted in _QUOTED.findall(complaint.message):
        if quoted == "inputs":
            return source
        if quoted == "top_n_tokens" and isinstance(request, Chat):
            return "top_logprobs"
        if quoted in PARAMS:
            return PARAMS[quoted]
    return None

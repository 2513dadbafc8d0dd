"""An upstream's error, of whatever shape, as the one error a client gets.

The shapes: OpenAI's nested object, a flat one, a string under `error`, `{"error", "error_type"}`, FastAPI's `detail`,
plain text, HTML, nothing at all.  The status is kept where it means something to the client; a fault of the gateway's
own (its key, its address) is not passed on as the client's.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from illm.backends.remote.scrub import complained_field, scrub
from illm.core.requests import Chat, Completion, Embed, Request, Rerank, Tokenize
from illm.errors import GatewayError, Kind

_ANY = re.IGNORECASE | re.DOTALL

CONTEXT_LENGTH = re.compile(
    r"maximum context length|longer than the model's context length|exceeds the model's maximum context"
    r"|exceeds the (?:available )?context|context_length_exceeded|exceed_context_size"
    r"|`inputs` tokens \+ `max_new_tokens`|`inputs` must have less than|longer than the (?:maximum|allowed) .*length"
    r"|exceeds? (?:the )?(?:maximum|max) (?:allowed )?(?:length|sequence)|maximum (?:sequence|input) length",
    _ANY,
)
CAPABILITY = re.compile(
    r"not (?:appear to be )?an embedding model|is an embedding model|not a multimodal model|only supports text input"
    r"|does not support (?:the )?(?:chat completions|completions|embeddings|transcriptions|generation)"
    r"|(?:image|audio) input is not|does not support (?:image|audio|vision|tools)"
    r"|requires --(?:enable-auto-tool-choice|tool-call-parser)",
    _ANY,
)
BUSY = re.compile(r"queue|busy|overload|too many|capacity|rate limit|slots?", _ANY)

_BY_CODE = {
    kind.value.code: kind
    for kind in Kind
    # Their key, their configuration and their inside are not ours.
    if kind.value.code and kind not in (Kind.UNAUTHORIZED, Kind.NOT_CONFIGURED, Kind.INTERNAL, Kind.NOT_FOUND)
}
"""For a gateway like this one behind this one, and for OpenAI's own codes."""

_BY_STATUS = {
    400: Kind.INVALID_REQUEST,
    401: Kind.UPSTREAM,
    403: Kind.UPSTREAM,
    404: Kind.CAPABILITY,
    405: Kind.CAPABILITY,
    408: Kind.TIMEOUT,
    413: Kind.TOO_LARGE,
    422: Kind.INVALID_REQUEST,
    429: Kind.OVERLOADED,
    501: Kind.CAPABILITY,
    503: Kind.UNREACHABLE,
    504: Kind.TIMEOUT,
}
"""Everything else is nonsense between the two servers: 502."""

_WORDS = {
    401: "The {framework} server refused the gateway's credentials",
    403: "The {framework} server refused the gateway's credentials",
    404: "The {framework} server does not offer {what}",
    405: "The {framework} server does not offer {what}",
    413: "The request is too large for the {framework} server",
    429: "The {framework} server is overloaded",
    503: "The {framework} server is not available",
}
"""Where upstream's own words are missing, or say nothing to a client."""

_MAX_RETRY_AFTER = 120


class Complaint(NamedTuple):
    """What could be read of an error.

    Args:
        message: upstream's words, as they came.
        code: symbolic, or the status that upstream thinks it has.
        type: upstream's name for it.
        param: the field at fault.
    """

    message: str = ""
    code: str | int | None = None
    type: str | None = None
    param: str | None = None


def read_complaint(body: bytes) -> Complaint:
    """Read an error in whatever shape; never raises."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:4096].decode("utf-8", "replace").strip()
        return Complaint("" if text.startswith("<") else text)  # a page for people says nothing to a program
    return complaint_in(value)


def complaint_in(value: Any) -> Complaint:
    """Read an error out of decoded JSON; never raises."""
    if isinstance(value, str):
        return Complaint(value)
    if not isinstance(value, Mapping):
        return Complaint()
    inner = value.get("error")
    if isinstance(inner, Mapping):
        value = inner
    elif isinstance(inner, str):
        return Complaint(inner, type=_text(value.get("error_type")))
    message = value.get("message") or value.get("detail") or value.get("msg") or ""
    if not isinstance(message, str):
        message = orjson.dumps(message, default=str).decode() if isinstance(message, list | dict) else str(message)
        details = re.findall(r'"msg":"((?:[^"\\]|\\.)*)"', message)
        message = "; ".join(details) or message
    code = value.get("code")
    if code is None:
        code = value.get("http_status_code")
    return Complaint(
        message,
        code if isinstance(code, str | int) and not isinstance(code, bool) else None,
        _text(value.get("type")),
        _text(value.get("param")),
    )


def upstream_error(
    framework: str, request: Request, status: int, complaint: Complaint, headers: Mapping[bytes, bytes] | None = None
) -> GatewayError:
    """Make the one error.

    Args:
        framework: who answered, for the message.
        request: what was asked, to name the parameter that is too long.
        status: HTTP status, or 200 where the error came inside an answer that had begun well.
        complaint: what upstream said.
        headers: upstream's, names in lower case.
    """
    if status < 400:
        status = complaint.code if isinstance(complaint.code, int) and 400 <= complaint.code < 600 else 500
    message = scrub(complaint.message)
    kind = _kind(status, complaint)
    param = _param(request, kind, complaint) if kind.value.status in (400, 404, 422, 413) else None
    if status in (401, 403) or not message or _is_route(status, kind, complaint):
        words = _WORDS.get(status, "The {framework} server failed (status {status})")
        message = words.format(framework=framework, status=status, what=_what(request))
    elif kind in (Kind.UPSTREAM, Kind.CAPABILITY, Kind.UNREACHABLE, Kind.OVERLOADED, Kind.TIMEOUT):
        message = f"The {framework} server answered: {message}"
    return GatewayError(kind, message, param=param, retry_after=_retry_after(kind, headers or {}))


def nonsense(framework: str, what: str) -> GatewayError:
    """Return the error for an answer that breaks the protocol."""
    return GatewayError(Kind.UPSTREAM, f"The {framework} server {what}")


def _kind(status: int, complaint: Complaint) -> Kind:
    if status in (401, 403):
        return Kind.UPSTREAM
    told = f"{complaint.message} {complaint.type or ''} {complaint.code or ''}"
    if status in (400, 413, 422, 500) and CONTEXT_LENGTH.search(told):
        return Kind.CONTEXT_LENGTH
    if CAPABILITY.search(complaint.message):
        return Kind.CAPABILITY
    if isinstance(complaint.code, str) and complaint.code in _BY_CODE:
        return _BY_CODE[complaint.code]
    if status == 404 and (complaint.param == "model" or re.search(r"\bmodel\b", complaint.message, re.IGNORECASE)):
        return Kind.MODEL_NOT_FOUND
    if status == 503 and BUSY.search(complaint.message):
        return Kind.OVERLOADED
    return _BY_STATUS.get(status, Kind.UPSTREAM)


def _is_route(status: int, kind: Kind, complaint: Complaint) -> bool:
    """Whether upstream only says that it has no such address, which the client has never seen."""
    return kind is Kind.CAPABILITY and status in (404, 405) and not CAPABILITY.search(complaint.message)


def _param(request: Request, kind: Kind, complaint: Complaint) -> str | None:
    if kind is Kind.CONTEXT_LENGTH:
        return _input_field(request)
    if kind is Kind.MODEL_NOT_FOUND:
        return "model"
    param = complaint.param or complained_field(complaint.message)
    if param is None or param.removeprefix("body.").isdigit() or not re.fullmatch(r"[\w.\[\]-]{1,100}", param):
        return None
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", param.removeprefix("body.")) if param != "body" else None


def _input_field(request: Request) -> str:
    match request:
        case Chat():
            return "messages"
        case Completion():
            return "prompt"
        case Embed():
            return "input"
        case Rerank():
            return "documents"
        case Tokenize():
            return "prompt"
        case _:
            return "file"


def _what(request: Request) -> str:
    match request:
        case Chat():
            return "chat"
        case Completion():
            return "completions"
        case Embed():
            return "embeddings"
        case _:
            return "transcriptions"


def _retry_after(kind: Kind, headers: Mapping[bytes, bytes]) -> int | None:
    given = headers.get(b"retry-after", b"").strip()
    if kind.value.retry_after is None or not given.isdigit():
        return None
    # More than two minutes makes official clients give up at once.
    return min(max(int(given[:9]), 1), _MAX_RETRY_AFTER)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None

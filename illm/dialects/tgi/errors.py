"""An error as TGI's body: a sentence, and a word that its clients choose their exception by."""

from collections.abc import Mapping

import orjson

from illm.errors import GatewayError, Kind

TYPES: Mapping[Kind, tuple[int, str]] = {
    Kind.INVALID_REQUEST: (422, "validation"),
    Kind.UNSUPPORTED_PARAMETER: (422, "validation"),
    Kind.CONTEXT_LENGTH: (422, "validation"),
    Kind.CAPABILITY: (422, "validation"),
    Kind.TOO_LARGE: (413, "validation"),
    Kind.MEDIA_TYPE: (415, "validation"),
    Kind.OVERLOADED: (429, "overloaded"),
    Kind.UPSTREAM: (424, "generation"),
    Kind.INTERNAL: (500, "generation"),
    Kind.TIMEOUT: (504, "generation"),
    Kind.BACKEND_DIED: (500, "incomplete_generation"),
    Kind.NOT_READY: (503, "healthcheck"),
    Kind.UNREACHABLE: (503, "healthcheck"),
    Kind.SHUTTING_DOWN: (503, "healthcheck"),
    Kind.MODEL_LOAD_FAILED: (503, "healthcheck"),
}
"""Status and `error_type`; what is not here keeps its own of both."""

BEGINNINGS: Mapping[Kind, str] = {
    Kind.INVALID_REQUEST: "Input validation error: ",
    Kind.UNSUPPORTED_PARAMETER: "Input validation error: ",
    Kind.CAPABILITY: "Input validation error: ",
    # By these words TGI's clients, and gateways like this one, know that the prompt is what is too long.
    Kind.CONTEXT_LENGTH: "Input validation error: `inputs` tokens + `max_new_tokens` do not fit: ",
    Kind.OVERLOADED: "Model is overloaded: ",
    Kind.UPSTREAM: "Request failed during generation: ",
    Kind.INTERNAL: "Request failed during generation: ",
    Kind.TIMEOUT: "Request failed during generation: ",
    Kind.BACKEND_DIED: "Incomplete generation: ",
}

_COMPLETE = ("Input validation error", "Failed to deserialize")


def error_status(error: GatewayError) -> int:
    """Return the HTTP status."""
    return TYPES[error.kind][0] if error.kind in TYPES else error.kind.value.status


def error_body(error: GatewayError) -> bytes:
    """Encode an error as the whole body of an answer."""
    kind = TYPES[error.kind][1] if error.kind in TYPES else error.kind.value.type
    message = error.message
    if not message.startswith(_COMPLETE):
        message = BEGINNINGS.get(error.kind, "") + message
    return orjson.dumps({"error": message, "error_type": kind})


def error_frame(error: GatewayError) -> bytes:
    """Encode an error as the last event of a stream."""
    return b"data:%s\n\n" % error_body(error)

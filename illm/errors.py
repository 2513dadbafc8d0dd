"""What can go wrong, and what HTTP says about it: one table, read by every layer and printed in the docs.

An error is data here.  Layers raise `GatewayError` (or carry it in a `Failed` event) without knowing about HTTP;
the ASGI edge reads the status, the body and the retry hints off its `Kind`.
"""

from enum import Enum
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One row of the table.

    `status` is the HTTP status, `type` and `code` go into OpenAI's error body, `should_retry` becomes
    `x-should-retry` (which official clients obey over the status), `retry_after` is in seconds.
    """

    status: int
    type: str
    code: str | None = None
    should_retry: bool | None = None
    retry_after: int | None = None


class Kind(Enum):
    """Every kind of failure a client can see."""

    INVALID_REQUEST = Row(400, "invalid_request_error")
    UNSUPPORTED_PARAMETER = Row(400, "invalid_request_error", "unsupported_parameter")
    CONTEXT_LENGTH = Row(400, "invalid_request_error", "context_length_exceeded")
    UNAUTHORIZED = Row(401, "authentication_error", "invalid_api_key")
    MODEL_NOT_FOUND = Row(404, "model_not_found", "model_not_found")
    NOT_FOUND = Row(404, "invalid_request_error", "not_found")
    METHOD_NOT_ALLOWED = Row(405, "invalid_request_error", "method_not_allowed")
    SLOW_REQUEST = Row(408, "invalid_request_error", "request_timeout")
    TOO_LARGE = Row(413, "invalid_request_error", "request_too_large")
    MEDIA_TYPE = Row(415, "invalid_request_error", "unsupported_media_type")
    CAPABILITY = Row(422, "CapabilityNotSupported", "capability_not_supported")
    OVERLOADED = Row(429, "rate_limit_error", "overloaded", retry_after=1)
    INTERNAL = Row(500, "server_error", "internal_error", should_retry=False)
    BACKEND_DIED = Row(500, "server_error", "backend_died")
    UPSTREAM = Row(502, "RemoteEndpointError", "bad_upstream")
    NOT_CONFIGURED = Row(503, "RemoteEndpointError", "not_configured", should_retry=False)
    UNREACHABLE = Row(503, "RemoteEndpointError", "backend_unavailable", retry_after=1)
    NOT_READY = Row(503, "server_error", "not_ready", retry_after=1)
    MODEL_LOAD_FAILED = Row(503, "server_error", "model_load_failed", should_retry=False)
    SHUTTING_DOWN = Row(503, "server_error", "shutting_down", retry_after=1)
    TIMEOUT = Row(504, "server_error", "timeout")


class GatewayError(Exception):
    """A failure a client may be told about.

    Args:
        kind: the row of the table.
        message: one sentence for the client; never a secret, a path or an address of ours.
        param: the request field at fault, as a dotted path (`messages[0].content`).
        retry_after: seconds, where more is known than the table says.
    """

    def __init__(self, kind: Kind, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after = kind.value.retry_after if retry_after is None else retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is pickled by its `args`, which are not what makes this one.
        return _again, (self.kind.name, self.message, self.param, self.retry_after)


def _again(kind: str, message: str, param: str | None, retry_after: int | None) -> GatewayError:
    return GatewayError(Kind[kind], message, param=param, retry_after=retry_after)


class ConfigError(Exception):
    """A wrong configuration value; the command line prints it and leaves with status 2."""

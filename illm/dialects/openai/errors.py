"""An error as OpenAI's body and as the headers that its clients obey."""

import orjson

from illm.errors import GatewayError


def error_object(error: GatewayError) -> dict[str, str | None]:
    """Return what stands under `error`, in an answer's body and in a stream's frame alike."""
    row = error.kind.value
    return {"message": error.message, "type": row.type, "param": error.param, "code": row.code}


def error_body(error: GatewayError) -> bytes:
    """Encode an error as the whole body of an answer."""
    return orjson.dumps({"error": error_object(error)})


def error_headers(error: GatewayError) -> list[tuple[bytes, bytes]]:
    """Return `retry-after` (seconds) and `x-should-retry`, each only where the error says so."""
    headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    should_retry = error.kind.value.should_retry
    if should_retry is not None:
        headers.append((b"x-should-retry", b"true" if should_retry else b"false"))
    return headers

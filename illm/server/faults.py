"""What the server itself answers, and which of an application's exceptions are nobody's fault."""

import json
import logging
from uuid import uuid4

from illm.server.exchange import ClientDisconnected

logger = logging.getLogger("illm.server")


def fault_body(status: int, reason: str) -> bytes:
    """Return the JSON body of an error that the application never saw."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": reason, "type": kind, "param": None, "code": None}}).encode()


def fault_headers(status: int, reason: str) -> list[tuple[bytes, bytes]]:
    """Return the header fields of such an answer, and log it under the id that it carries."""
    request_id = uuid4().hex
    logger.info("id=%s status=%d answered by the server: %s", request_id, status, reason)
    return [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]


def only_disconnects(exc: BaseException) -> bool:
    """Say whether `exc`, perhaps a group of a task group's, is nothing but a client that left."""
    if isinstance(exc, BaseExceptionGroup):
        return all(only_disconnects(inner) for inner in exc.exceptions)
    return isinstance(exc, ClientDisconnected)

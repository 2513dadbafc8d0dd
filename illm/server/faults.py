"""What the server itself answers, and which of an application's exceptions are nobody's fault."""

import json

from illm.server.exchange import ClientDisconnected


def fault_body(status: int, reason: str) -> bytes:
    """Return the JSON body of an error that the application never saw."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": reason, "type": kind, "param": None, "code": None}}).encode()


def only_disconnects(exc: BaseException) -> bool:
    """Say whether `exc`, perhaps a group of a task group's, is nothing but a client that left."""
    if isinstance(exc, BaseExceptionGroup):
        return all(only_disconnects(inner) for inner in exc.exceptions)
    return isinstance(exc, ClientDisconnected)

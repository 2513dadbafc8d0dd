"""One call on its way through the workers of a backend, and what its client is told of a fault of ours."""

from illm.actors.call import Call
from illm.backends.remote.upstream import Decoder
from illm.core.requests import Request
from illm.errors import GatewayError, Kind


class Job:
    """One call on its way through the workers.

    Args:
        call: whom to answer.
        request: what to ask; the call's, perhaps with the model filled in.

    Attributes:
        since: see `Deadline.begin`.
        begun: the client may have seen something: no other replica can take over.
        moved: another replica has been tried.
        method, pieces, decoder: the request as one server wants it, and what reads its answer.
    """

    __slots__ = ("begun", "call", "decoder", "method", "moved", "pieces", "request", "since")

    decoder: Decoder

    def __init__(self, call: Call, request: Request) -> None:
        self.call = call
        self.request = request
        self.since = call.seen_at
        self.begun = self.moved = False
        self.method = ""
        self.pieces: tuple[bytes, ...] = ()


def blunder(error: Exception) -> GatewayError:
    """Return what a client is told of a fault of ours."""
    told = GatewayError(Kind.INTERNAL, "The backend failed on this request")
    told.__cause__ = error
    return told

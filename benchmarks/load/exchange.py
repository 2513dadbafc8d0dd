"""One request and its answer, as they happened: times and bytes, judged only after the clock has stopped."""

from benchmarks.load.bodies import Body


class Exchange:
    """What was sent, and what came when.

    Attributes:
        body: what was sent.
        due: when it should have been sent, ns on the monotonic clock; in a closed loop the same as `sent`.
        sent: when it was handed to the kernel, ns.
        ended: when the answer was complete, ns; 0 while it is not.
        status: 0 until there is one.
        pieces: bytes of the answer's body as they were read.
        times: when each piece was read, ns.
        broken: what the connection did instead of answering; empty where it did not.
    """

    __slots__ = ("body", "broken", "due", "ended", "pieces", "sent", "status", "times")

    def __init__(self, body: Body, due: int) -> None:
        self.body = body
        self.due = self.sent = due
        self.ended = self.status = 0
        self.pieces: list[bytes] = []
        self.times: list[int] = []
        self.broken = ""

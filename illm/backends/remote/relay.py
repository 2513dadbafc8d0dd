"""Answers of servers that speak the client's own dialect: relayed as they are, or repaired where something must change.

A stream is relayed, one `Raw` a socket read, while its bytes hold none of a few words; frames that do (an error, a
count, a reason to end) are parsed, and so is every frame of a stream that needs repair throughout.  Either way a stream
ends honestly: with `[DONE]` if every choice gave a reason to end, and with a failure otherwise.
"""

from collections.abc import Mapping, Sequence

import orjson

from illm.backends.remote.bodies import MAX_ERROR, AnswerDecoder, Body, Collected
from illm.backends.remote.repair import Asked, read_usage, repair_answer
from illm.backends.remote.repair_chunks import ChunkRepair
from illm.backends.remote.untouched import drop_empty, untouched
from illm.backends.remote.upstream_errors import nonsense
from illm.core.events import Done, Event, Raw, Usage
from illm.core.sse import MAX_EVENT, SSEDecoder

__all__ = ["AnswerDecoder", "StreamAnswer", "WholeAnswer", "answer_body"]

DONE = b"data: [DONE]\n\n"


def needs_reading(frames: bytes) -> bool:
    """Whether relayed frames hold something that has to be looked at: a failure, a count, a reason to end, the end.

    In a JSON string quotes are escaped, so text cannot be taken for the first four.  They are written out one by one
    because every token passes here: a loop over them costs as much again as the searches.
    """
    return (
        b'"reasoning"' in frames
        or b'"error"' in frames
        or b'"usage":{' in frames
        or b'"finish_reason":"' in frames  # `abort`, `error` and `repetition` among them
        or b"[DONE]" in frames
        or b"\r" in frames
    )


class WholeAnswer(Collected):
    """A chat or a completion that is not streamed.

    Args:
        asked: what it has to look like.
    """

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked.framework)
        self._asked = asked

    def read(self, body: bytes) -> Sequence[Event]:
        """Relay it, or repair it."""
        answer = self.decoded(body)
        usage = read_usage(answer.get("usage")) or Usage()
        emptied = drop_empty(answer)
        if not untouched(self._asked, answer):
            answer = repair_answer(self._asked, answer)
        elif not emptied:
            return (Raw(body), Done(usage))
        return (Raw(orjson.dumps(answer)), Done(usage))


class NoStream(Collected):
    """What came instead of the stream that was asked for: an error, or nonsense."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked.framework, MAX_ERROR)
        self._asked = asked

    def read(self, body: bytes) -> Sequence[Event]:
        """Raise it."""
        self._asked.raise_error_in(self.decoded(body))
        raise nonsense(self.framework, "answered a whole body where a stream was asked for")


class StreamAnswer:
    """A streamed chat or completion.

    Args:
        asked: what it has to look like.
        relayable: whether the request leaves the frames as they are, if upstream writes them as expected.
    """

    def __init__(self, asked: Asked, *, relayable: bool) -> None:
        self._asked = asked
        self._relayable = relayable
        self._relaying = False
        self._repair = ChunkRepair(asked)
        self._sse = SSEDecoder()
        self._tail: list[bytes] = []  # of the frame that is not yet complete, while relaying or undecided
        self._tail_size = 0
        self._done = False

    def feed(self, data: bytes) -> Sequence[Event]:
        """Relay or repair a piece."""
        if self._relaying and not self._tail and data.endswith(b"\n\n") and not needs_reading(data):
            return (Raw(data),)  # nearly every read of nearly every stream
        if self._done or not data:
            return ()
        out = self._relay(data) if self._relayable else self._parse(self._sse.feed(data))
        return (Raw(out),) if out else ()

    def close(self) -> Sequence[Event]:
        """End the stream, if upstream has."""
        out = b""
        if not self._done:
            rest = self._sse.feed(b"".join(self._tail)) + self._sse.close()
            out = self._parse(rest)
        self._repair.check_complete()
        return (Raw(out + DONE), Done(self._repair.usage or Usage()))

    def _relay(self, data: bytes) -> bytes:
        if b"\r" in data:  # never inside JSON, so a line end: then frames are not where we would look for them
            self._relayable = self._relaying = False
            data, self._tail = b"".join((*self._tail, data)), []
            return self._parse(self._sse.feed(data))
        if self._tail:
            # The end of a frame may itself be cut in two.
            if b"\n" not in data:
                return self._keep(data)
            data = b"".join((*self._tail, data))
            self._tail, self._tail_size = [], 0
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            return self._keep(data)
        complete = data
        if end < len(data):
            complete, rest = data[:end], data[end:]
            self._tail, self._tail_size = [rest], len(rest)
        if self._relaying and not needs_reading(complete):
            return complete
        out = b"".join([self._frame(frame) for frame in complete.split(b"\n\n") if frame])
        if not self._relayable:  # as the first frame has shown
            rest, self._tail = b"".join(self._tail), []
            out += self._parse(self._sse.feed(rest))
        return out

    def _keep(self, data: bytes) -> bytes:
        self._tail.append(data)
        self._tail_size += len(data)
        if self._tail_size > MAX_EVENT:
            raise nonsense(self._asked.framework, f"sent an event larger than {MAX_EVENT} bytes")
        return b""

    def _frame(self, frame: bytes) -> bytes:
        """Handle one complete frame of a stream that may be relayed."""
        if self._done:
            return b""
        if self._relaying and not needs_reading(frame):
            return frame + b"\n\n"
        # One line of data is what everybody sends.
        simple = frame.startswith(b"data: ") and b"\n" not in frame
        payloads = [frame[6:]] if simple else SSEDecoder().feed(frame + b"\n\n")
        if payloads and not self._relaying and self._relayable:
            self._decide(payloads[0])
        return self._parse(payloads)

    def _decide(self, payload: bytes) -> None:
        """Look at the first frame: whether the others can go as they are."""
        model = self._asked.request.model
        # Compact JSON is what `needs_reading` is written for.
        expected = b'"model":%s' % orjson.dumps(model) if model else b'"model":"'
        self._relaying = expected in payload
        if not self._relaying:
            self._relayable = False

    def _parse(self, payloads: list[bytes]) -> bytes:
        pieces = []
        for payload in payloads:
            if self._done or not payload:
                continue
            if payload.startswith(b"[DONE]"):
                self._done = True
                self._relaying = False
                continue
            try:
                chunk = orjson.loads(payload)
            except orjson.JSONDecodeError:
                chunk = None
            if not isinstance(chunk, dict):
                raise nonsense(self._asked.framework, "sent an event that is no JSON object")
            pieces += [b"data: %s\n\n" % orjson.dumps(fixed) for fixed in self._repair.repair(chunk)]
        return b"".join(pieces)


def answer_body(asked: Asked, headers: Mapping[bytes, bytes], *, relayable: bool) -> Body:
    """Choose what reads a chat's or a completion's answer."""
    request = asked.request
    if not request.stream:
        return WholeAnswer(asked)
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind and kind != b"text/event-stream":
        return NoStream(asked)
    return StreamAnswer(asked, relayable=relayable and asked.plain)

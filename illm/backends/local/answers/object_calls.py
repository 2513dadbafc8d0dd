"""What the formats that write calls as JSON objects have in common."""

from collections.abc import Set

from illm.backends.local.answers.call_object import CallObject
from illm.backends.local.answers.call_reader import CallReader
from illm.backends.local.answers.pieces import Arguments
from illm.core.stops import overlap


class ObjectCalls(CallReader):
    """See `CallReader`.  `_read_object` reads one object at `_at`, `_after_object` says how to go on."""

    def __init__(self, names: Set[str], *, lines: bool = True) -> None:
        super().__init__(names, lines=lines)
        self._object = CallObject(names)

    def _new_object(self) -> bool:
        self._object = CallObject(self._names)
        self._state = self._read_object
        return True

    def _read_object(self) -> bool:
        call = self._object
        self._at = call.take(self._buffer, self._at)
        self._out += call.drain()
        if call.confirmed:
            self._confirm()
        if call.state == "open":
            if not call.confirmed:
                return False if self._waits() else self._give_back()
            if self._over:
                self._buffer = ""
                self._end_call()
                self._state = self._prose
            return False
        if call.state == "broken":
            return self._give_back()
        if call.state == "spoilt":
            self._state = self._spoilt
            return True
        self._end_call()
        return self._after_object()

    def _after_object(self) -> bool:
        return self._resume()

    def _another(self, separators: str) -> bool:
        """Read another object if a separator and a brace are next; else go on with prose, the blanks included."""
        rest = self._buffer[self._at :]
        if rest[:1] in tuple(separators) and rest[1:].lstrip()[:1] == "{":
            self._at += 1
            self._past_blanks()
            self._given = self._at + 1
            return self._new_object()
        self._at = 0
        return self._resume()

    def _spoilt(self) -> bool:
        """Hand on as arguments what is no JSON any more: the client sees what the model wrote, and that it is wrong."""
        end = self._buffer.find(self.closing) if self.closing else -1
        if end >= 0:
            self._argue(end)
            self._end_call()
            self._frame_open = True
            return self._resume()
        if self._over:
            self._argue(len(self._buffer))
            self._end_call()
            self._state = self._prose
            return False
        self._argue(len(self._buffer) - (overlap(self._buffer, self.closing) if self.closing else 0))
        return False

    def _argue(self, end: int) -> None:
        self._out.append(Arguments(self._buffer[:end]))
        self._buffer = self._buffer[end:]

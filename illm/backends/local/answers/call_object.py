"""A call as a JSON object, `{"name": ..., "arguments": {...}}`, read as it comes.

The two may come in either order, `parameters` is another word for `arguments`, and what else there is does not matter.
A call begins for the client when its name is known to be one of the tools and its arguments have begun; until then it
may turn out to be no call at all.
"""

import json
import re
from collections.abc import Callable, Set

from illm.backends.local.answers.json_value import JSONValue
from illm.backends.local.answers.pieces import Arguments, Called, Piece

MAX_NAME = 4096
"""Characters that a key or a name may have, escapes and all; longer ones are nobody's."""

_BLANKS = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_HALVES = re.compile("[\ud800-\udfff]")
_ARGUMENTS = ("arguments", "parameters")


class CallObject:
    """One call.

    Args:
        names: of the tools; an object with another name is no call.

    Attributes:
        state: `open` while it goes on; `done` behind it, or behind arguments that were complete before something
            else went wrong; `spoilt` where its arguments stopped being JSON after the client had seen their
            beginning; `broken` where it turned out to be no call.
    """

    __slots__ = ("_early", "_key", "_name", "_names", "_pieces", "_step", "_value", "confirmed", "finished", "state")

    def __init__(self, names: Set[str]) -> None:
        self.state = "open"
        self.confirmed = False
        self.finished = False  # the arguments are complete
        self._names = names
        self._name: str | None = None
        self._key = ""
        self._early: list[str] = []  # arguments that came before the name
        self._value = JSONValue()
        self._pieces: list[Piece] = []
        self._step: Callable[[str, int], int | None] = self._open

    def take(self, text: str, at: int = 0) -> int:
        """Read on from `at`, and return how far it got."""
        while self.state == "open":
            end = self._step(text, at)
            if end is None:
                break
            at = end
        return at

    def drain(self) -> list[Piece]:
        """Return what has become clear since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _open(self, text: str, at: int) -> int | None:
        return self._mark(text, at, {"{": self._read_key})

    def _read_key(self, text: str, at: int) -> int | None:
        read = self._string(text, at)
        if read is None:
            return None
        self._key, at = read
        self._step = self._colon
        return at

    def _colon(self, text: str, at: int) -> int | None:
        return self._mark(text, at, {":": self._read_value})

    def _read_value(self, text: str, at: int) -> int | None:
        at = _past_blanks(text, at)
        first = text[at : at + 1]
        if not first:
            return None
        if self._key == "name":
            return self._read_name(text, at)
        self._value = JSONValue()
        if self._key not in _ARGUMENTS:
            self._step = self._skip_value
        elif self.finished or first not in '{"n':
            return self._give_up(at)
        else:
            self._step = {"{": self._read_arguments, '"': self._read_quoted, "n": self._skip_value}[first]
        return at

    def _read_name(self, text: str, at: int) -> int | None:
        read = self._string(text, at)
        if read is None:
            return None
        name, end = read
        if self._name is not None or name not in self._names:
            return self._give_up(at)
        self._name, self._step = name, self._after
        if self._early:
            self._argue("")
        return end

    def _read_arguments(self, text: str, at: int) -> int | None:
        end, read = self._value.take(text, at)
        if end > at:
            self._argue(read)
        if self._value.state == "broken":
            return self._give_up(end)
        if self._value.state == "open":
            return end if end > at else None
        self.finished, self._step = True, self._after
        return end

    def _read_quoted(self, text: str, at: int) -> int | None:
        """Arguments as JSON in a string, as they are in OpenAI's protocol."""
        read = self._string(text, at, limit=None)
        if read is None:
            return None
        written, end = read
        inner = JSONValue()
        stop, clean = inner.take(written)
        if inner.state != "done" or not written.lstrip().startswith("{") or written[stop:].strip():
            return self._give_up(at)
        # Half a pair stands in a string of JSON as an escape only: as a character no client could be sent it.
        self._argue(_HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", clean))
        self.finished, self._step = True, self._after
        return end

    def _skip_value(self, text: str, at: int) -> int | None:
        end, _ = self._value.take(text, at)
        if self._value.state == "broken":
            return self._give_up(end)
        if self._value.state == "open":
            return end if end > at else None
        self._step = self._after
        return end

    def _after(self, text: str, at: int) -> int | None:
        return self._mark(text, at, {",": self._read_key, "}": self._finish})

    def _finish(self, text: str, at: int) -> int | None:
        """Come to the end of it.  It is reached with the closing brace, so there is nothing to read."""
        if self._name is None:
            return self._give_up(at)
        if not self.confirmed:
            self._argue("{}")
        self.finished, self.state = True, "done"
        return at

    def _argue(self, text: str) -> None:
        if self._name is None:
            self._early.append(text)
            return
        if not self.confirmed:
            self.confirmed = True
            self._pieces.append(Called(self._name))
        self._pieces.append(Arguments("".join((*self._early, text))))
        self._early = []

    def _give_up(self, at: int) -> int:
        self.state = "broken" if not self.confirmed else "done" if self.finished else "spoilt"
        return at

    def _mark(self, text: str, at: int, steps: dict[str, Callable[[str, int], int | None]]) -> int | None:
        at = _past_blanks(text, at)
        first = text[at : at + 1]
        if not first:
            return None
        if first not in steps:
            return self._give_up(at)
        self._step = steps[first]
        return at + 1

    def _string(self, text: str, at: int, limit: int | None = MAX_NAME) -> tuple[str, int] | None:
        """Read a string that has to be whole before it means anything; None where it is not, or is none."""
        at = _past_blanks(text, at)
        if at < len(text) and text[at] != '"':
            self._give_up(at)
            return None
        found = _STRING.match(text, at)
        if found is None:
            if limit is not None and len(text) - at > limit:
                self._give_up(at)
            return None
        try:
            read = json.loads(found[0], strict=False)
        except ValueError:
            self._give_up(at)
            return None
        return str(read), found.end()


def _past_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    assert blanks is not None  # noqa: S101 - it matches nothing, too
    return blanks.end()

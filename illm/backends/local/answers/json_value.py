"""How far a JSON value goes, read as it comes.

What was read is given back as it was written, with one repair: a line break or another control character inside a
string, which models write and JSON does not allow, becomes its escape.
"""

import re
from collections.abc import Callable

_BLANKS = re.compile(r"[ \t\n\r]*")
_IN_STRING = re.compile(r'[^"\\]*')
_ATOM_RUN = re.compile(r"[-+.0-9A-Za-z]*")
_ATOM = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
_ESCAPES = {code: f"\\u{code:04x}" for code in range(32)} | {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
_CLOSERS = {"{": "}", "[": "]"}
_HEX = frozenset("0123456789abcdefABCDEF")


class JSONValue:
    """One value.

    Attributes:
        state: `open` while it goes on, `done` behind its last character, `broken` where no JSON can go on.
    """

    __slots__ = ("_atom", "_closers", "_hex", "_is_key", "_out", "_step", "state")

    def __init__(self) -> None:
        self.state = "open"
        self._step: Callable[[str, int], int] = self._value
        self._closers: list[str] = []
        self._atom = ""
        self._hex = 0
        self._is_key = False
        self._out: list[str] = []

    def take(self, text: str, at: int = 0) -> tuple[int, str]:
        """Read on.

        Args:
            text: what has come.
            at: from where.

        Returns:
            Where it stopped (behind the value, or at what broke it), and what it read.
        """
        self._out = []
        while self.state == "open" and at < len(text):
            at = self._step(text, at)
        return at, "".join(self._out)

    def _value(self, text: str, at: int) -> int:
        at = self._skip(text, at)
        first = text[at : at + 1]
        if first in _CLOSERS:
            self._closers.append(_CLOSERS[first])
            self._step = self._first_key if first == "{" else self._first_item
            return self._keep(first, at)
        if first == '"':
            return self._open_string(at, is_key=False)
        if first and first in "-0123456789tfn":
            self._atom, self._step = "", self._atomic
            return at
        return self._refuse(first, at)

    def _first_key(self, text: str, at: int) -> int:
        at = self._skip(text, at)
        return self._close(at) if text[at : at + 1] == "}" else self._key(text, at)

    def _key(self, text: str, at: int) -> int:
        at = self._skip(text, at)
        first = text[at : at + 1]
        return self._open_string(at, is_key=True) if first == '"' else self._refuse(first, at)

    def _first_item(self, text: str, at: int) -> int:
        at = self._skip(text, at)
        return self._close(at) if text[at : at + 1] == "]" else self._value(text, at)

    def _colon(self, text: str, at: int) -> int:
        at = self._skip(text, at)
        first = text[at : at + 1]
        if first != ":":
            return self._refuse(first, at)
        self._step = self._value
        return self._keep(first, at)

    def _next(self, text: str, at: int) -> int:
        at = self._skip(text, at)
        first = text[at : at + 1]
        if first == self._closers[-1]:
            return self._close(at)
        if first != ",":
            return self._refuse(first, at)
        self._step = self._key if self._closers[-1] == "}" else self._value
        return self._keep(first, at)

    def _string(self, text: str, at: int) -> int:
        run = _IN_STRING.match(text, at)
        assert run is not None  # noqa: S101 - it matches nothing, too
        self._out.append(run[0].translate(_ESCAPES))
        at = run.end()
        if at == len(text):
            return at
        if text[at] == "\\":
            self._step = self._escape
        elif self._is_key:
            self._step = self._colon
        else:
            self._end_value()
        return self._keep(text[at], at)

    def _escape(self, text: str, at: int) -> int:
        first = text[at]
        if first == "u":
            self._hex, self._step = 4, self._unicode
        elif first in '"\\/bfnrt':
            self._step = self._string
        else:
            return self._refuse(first, at)
        return self._keep(first, at)

    def _unicode(self, text: str, at: int) -> int:
        first = text[at]
        if first not in _HEX:
            return self._refuse(first, at)
        self._hex -= 1
        if not self._hex:
            self._step = self._string
        return self._keep(first, at)

    def _atomic(self, text: str, at: int) -> int:
        run = _ATOM_RUN.match(text, at)
        assert run is not None  # noqa: S101
        self._atom += run[0]
        self._out.append(run[0])
        at = run.end()
        if at < len(text):
            if _ATOM.fullmatch(self._atom):
                self._end_value()
            else:
                self.state = "broken"
        return at

    def _open_string(self, at: int, *, is_key: bool) -> int:
        self._is_key, self._step = is_key, self._string
        return self._keep('"', at)

    def _close(self, at: int) -> int:
        closer = self._closers.pop()
        self._end_value()
        return self._keep(closer, at)

    def _end_value(self) -> None:
        self._step = self._next
        if not self._closers:
            self.state = "done"

    def _skip(self, text: str, at: int) -> int:
        blanks = _BLANKS.match(text, at)
        assert blanks is not None  # noqa: S101
        self._out.append(blanks[0])
        return blanks.end()

    def _keep(self, character: str, at: int) -> int:
        self._out.append(character)
        return at + 1

    def _refuse(self, character: str, at: int) -> int:
        if character:  # else the text ended before it was clear
            self.state = "broken"
        return at

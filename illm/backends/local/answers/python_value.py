"""A literal of Python's, read as it comes and turned into JSON.

Strings in either quotes, numbers, `True`, `False`, `None` (and JSON's own words for them), lists, tuples and dicts with
strings for keys.
"""

import json
import re
from collections.abc import Callable, Mapping

_BLANKS = re.compile(r"\s*")
_IN_STRING = {quote: re.compile(rf"[^{quote}\\]*") for quote in "'\""}
_ATOM_RUN = re.compile(r"[-+.0-9A-Za-z_]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_OPENERS = {"{": ("{", "}", "}"), "[": ("[", "]", "]"), "(": ("[", ")", "]")}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
_CODES: Mapping[str, int] = {"x": 2, "u": 4, "U": 8}
_LAST_CODE = 0x10FFFF


class PythonValue:
    """One literal.

    Attributes:
        state: `open` while it goes on, `done` behind its last character, `broken` where it is no literal any more.
    """

    __slots__ = ("_atom", "_closers", "_code", "_digits", "_is_key", "_quote", "_step", "state")

    def __init__(self) -> None:
        self.state = "open"
        self._step: Callable[[str, int], tuple[int, str]] = self._value
        self._closers: list[tuple[str, str]] = []  # Python's and JSON's
        self._atom = self._code = self._quote = ""
        self._digits = 0
        self._is_key = False

    def take(self, text: str, at: int = 0) -> tuple[int, str]:
        """Read on from `at`; return where it stopped, and the JSON for what it read."""
        out = []
        while self.state == "open" and at < len(text):
            at, written = self._step(text, at)
            out.append(written)
        return at, "".join(out)

    @property
    def undecided(self) -> str:
        """What was read and not written yet: a number or a word that may go on."""
        return self._atom if self.state == "open" else ""

    def _value(self, text: str, at: int) -> tuple[int, str]:
        at, first = _look(text, at)
        if first in _OPENERS:
            opener, theirs, ours = _OPENERS[first]
            self._closers.append((theirs, ours))
            self._step = self._first_key if first == "{" else self._first_item
            return at + 1, opener
        if first in _IN_STRING:
            return self._open_string(first, at, is_key=False)
        if first.isalnum() or first == "-":
            self._atom, self._step = "", self._atomic
            return at, ""
        return self._refuse(first, at)

    def _first_key(self, text: str, at: int) -> tuple[int, str]:
        at, first = _look(text, at)
        return self._close(at) if first == "}" else self._key(text, at)

    def _key(self, text: str, at: int) -> tuple[int, str]:
        at, first = _look(text, at)
        return self._open_string(first, at, is_key=True) if first in _IN_STRING else self._refuse(first, at)

    def _first_item(self, text: str, at: int) -> tuple[int, str]:
        at, first = _look(text, at)
        return self._close(at) if first and first == self._closers[-1][0] else self._value(text, at)

    def _colon(self, text: str, at: int) -> tuple[int, str]:
        at, first = _look(text, at)
        if first != ":":
            return self._refuse(first, at)
        self._step = self._value
        return at + 1, ": "

    def _next(self, text: str, at: int) -> tuple[int, str]:
        at, first = _look(text, at)
        if first and first == self._closers[-1][0]:
            return self._close(at)
        if first != ",":
            return self._refuse(first, at)
        self._step = self._behind_comma
        return at + 1, ""

    def _behind_comma(self, text: str, at: int) -> tuple[int, str]:
        at, first = _look(text, at)
        if first and first == self._closers[-1][0]:  # Python allows a comma behind the last
            return self._close(at)
        if not first:
            return at, ""
        self._step = self._key if self._closers[-1][0] == "}" else self._value
        return at, ", "

    def _string(self, text: str, at: int) -> tuple[int, str]:
        run = _IN_STRING[self._quote].match(text, at)
        assert run is not None  # noqa: S101 - it matches nothing, too
        written, at = _inside(run[0]), run.end()
        if at == len(text):
            return at, written
        if text[at] == "\\":
            self._step = self._escape
            return at + 1, written
        if self._is_key:
            self._step = self._colon
        else:
            self._end_value()
        return at + 1, written + '"'

    def _escape(self, text: str, at: int) -> tuple[int, str]:
        first = text[at]
        self._step = self._string
        if first in _CODES:
            self._digits, self._code, self._step = _CODES[first], "", self._coded
            return at + 1, ""
        # What Python does not know as an escape it leaves as it is, backslash and all.
        known = first if first in "\\'\"" else _ESCAPES.get(first)
        return at + 1, _inside("\\" + first if known is None else known)

    def _coded(self, text: str, at: int) -> tuple[int, str]:
        first = text[at]
        if first not in "0123456789abcdefABCDEF":
            return self._refuse(first, at)
        self._code += first
        if len(self._code) < self._digits:
            return at + 1, ""
        code = int(self._code, 16)
        if code > _LAST_CODE:
            return self._refuse(first, at)
        self._step = self._string
        return at + 1, json.dumps(chr(code))[1:-1]

    def _atomic(self, text: str, at: int) -> tuple[int, str]:
        run = _ATOM_RUN.match(text, at)
        assert run is not None  # noqa: S101
        self._atom += run[0]
        at = run.end()
        if at == len(text):
            return at, ""
        written = _WORDS.get(self._atom) or (self._atom if _NUMBER.fullmatch(self._atom) else None)
        if written is None:
            self.state = "broken"
            return at, self._atom
        self._atom = ""
        self._end_value()
        return at, written

    def _open_string(self, quote: str, at: int, *, is_key: bool) -> tuple[int, str]:
        self._quote, self._is_key, self._step = quote, is_key, self._string
        return at + 1, '"'

    def _close(self, at: int) -> tuple[int, str]:
        _, ours = self._closers.pop()
        self._end_value()
        return at + 1, ours

    def _end_value(self) -> None:
        self._step = self._next
        if not self._closers:
            self.state = "done"

    def _refuse(self, character: str, at: int) -> tuple[int, str]:
        if character:  # else the text ended before it was clear
            self.state = "broken"
        return at, ""


def _look(text: str, at: int) -> tuple[int, str]:
    blanks = _BLANKS.match(text, at)
    assert blanks is not None  # noqa: S101
    return blanks.end(), text[blanks.end() : blanks.end() + 1]


def _inside(text: str) -> str:
    """Return text as it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]

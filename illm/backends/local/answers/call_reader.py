"""What the parsers of all formats have in common: prose, and a call that may begin in it.

A call may begin at a mark anywhere in the text, or, in formats where calls may be bare, at an opening bracket that
begins a line.  What stands from there on is a guess until the call's name and its first argument are known
(`_confirm`); a wrong guess is given back as prose (`_give_back`), and reading goes on behind the mark.  Blanks in front
of a call belong to it, so they are held until it is clear what follows.
"""

import re
from collections.abc import Callable, Set

from illm.backends.local.answers.pieces import Ended, Piece, Said, joined
from illm.core.stops import overlap

MAX_GUESS = 1 << 16
"""Characters after which a call that is not confirmed is taken for prose."""

State = Callable[[], bool]
"""Look at the buffer and take from it; whether to look again."""


class CallReader:
    """One answer's text, and the calls in it.

    Args:
        names: of the tools that the client offered; a call of another is prose.
        lines: whether a bare call may begin any line, or only the answer.

    Attributes:
        marks: strings that open a call wherever they stand.
        closing: the string that closes one, if the format has it.
        bare: the character that opens a call at the beginning of a line, if any does.
    """

    marks: tuple[str, ...] = ()
    closing: str | None = None
    bare: str | None = None

    def __init__(self, names: Set[str], *, lines: bool = True) -> None:
        self._names = names
        self._lines = lines
        self._buffer = ""
        self._at = 0  # where the guess is being read
        self._given = 0  # how much of the buffer is prose if the guess is wrong
        self._fresh = True  # the buffer begins a line
        self._frame_open = False  # a call has ended whose closing mark may yet come
        self._behind_call = False  # nothing but blanks has come since a call
        self._over = False
        self._out: list[Piece] = []
        self._state: State = self._prose
        self._line = re.compile(rf"(\A|\n)[ \t]*({re.escape(self.bare)})") if self.bare else None

    def feed(self, text: str) -> list[Piece]:
        """Return what this text makes clear."""
        self._buffer += text
        return self._run()

    def close(self) -> list[Piece]:
        """Return what was held back: the text has ended."""
        self._over = True
        return self._run()

    def _begin(self, mark: str) -> State:
        """Return how to read on behind a mark or the bare bracket (`_at` is behind a mark, and at a bracket)."""
        raise NotImplementedError

    def _run(self) -> list[Piece]:
        self._out = []
        while self._state():
            pass
        return joined(self._out)

    def _prose(self) -> bool:
        found = self._find()
        if found is None:
            if self._over and self._behind_call and not self._buffer.strip():
                self._buffer = ""
            self._say(len(self._buffer) - (0 if self._over else self._undecided()))
            return False
        at, mark = found
        before = self._buffer[:at]
        self._say(len(before.rstrip()))
        at = len(before) - len(before.rstrip())
        if mark == self.closing:
            self._buffer, self._frame_open = self._buffer[at + len(mark) :], False
            return True
        self._given = at + len(mark)
        self._at = at if mark == self.bare else self._given
        self._state = self._begin(mark)
        return True

    def _find(self) -> tuple[int, str] | None:
        marks = (*self.marks, self.closing) if self._frame_open and self.closing else self.marks
        found = [(at, -len(mark), mark) for mark in marks if (at := self._buffer.find(mark)) >= 0]
        if self._line is not None and self.bare is not None:
            for line in self._line.finditer(self._buffer):
                first = self._fresh and not self._buffer[: line.start(2)].strip()
                if first or (line[1] and self._lines):
                    found.append((line.start(2), -1, self.bare))
                    break
        if not found:
            return None
        at, _, mark = min(found)
        return at, mark

    def _undecided(self) -> int:
        """Return how many characters at the end may belong to a call that has not come yet: part of a mark, blanks."""
        text = self._buffer
        marks = (*self.marks, self.closing) if self.closing else self.marks
        hold = max((overlap(text, mark) for mark in marks), default=0)
        return len(text) - len(text[: len(text) - hold].rstrip())

    def _say(self, end: int) -> None:
        said, self._buffer = self._buffer[:end], self._buffer[end:]
        if said:
            self._out.append(Said(said))
            self._fresh = self._lines and said.rstrip(" \t").endswith("\n")
            self._behind_call = False

    def _confirm(self) -> None:
        """It is a call: what framed it is no part of the answer."""
        self._buffer, self._at = self._buffer[self._at :], 0

    def _give_back(self) -> bool:
        """It is none."""
        self._say(max(self._given, 1))
        self._at, self._state = 0, self._prose
        return True

    def _end_call(self) -> None:
        self._out.append(Ended())

    def _resume(self) -> bool:
        """Go on with prose behind a call."""
        self._buffer, self._at = self._buffer[self._at :], 0
        self._fresh = self._behind_call = True
        self._state = self._prose
        return True

    def _waits(self) -> bool:
        """Whether a guess may still go on; else it is given back."""
        return not self._over and len(self._buffer) <= MAX_GUESS

    def _past_blanks(self) -> str:
        """Move behind blanks, and return the rest."""
        rest = self._buffer[self._at :]
        trimmed = rest.lstrip()
        self._at += len(rest) - len(trimmed)
        return trimmed

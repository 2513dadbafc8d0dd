"""Calls as Python writes them, `[f(a=1), g(b="x")]`: Llama 4 and small Llama 3.2, ToolACE and others."""

import json
import re
from collections.abc import Set

from illm.backends.local.answers.call_reader import CallReader, State
from illm.backends.local.answers.pieces import Arguments, Called
from illm.backends.local.answers.python_value import PythonValue

MAX_WORD = 512
"""Characters that a name may have."""

# Behind the parenthesis the first argument's name decides: it is a call then, and not a list that looks like one.
_HEAD = re.compile(r"\s*([^\W\d][\w.-]*)\s*\(\s*(?:(\))|([^\W\d]\w*)\s*=(?!=))")
_PART_OF_HEAD = re.compile(r"\s*(?:[^\W\d][\w.-]*\s*(?:\(\s*(?:[^\W\d]\w*\s*=?)?)?)?")
_NEXT_NAME = re.compile(r"\s*([^\W\d]\w*)\s*=(?!=)")
_PART_OF_NAME = re.compile(r"\s*(?:[^\W\d]\w*\s*=?)?")


class PythonicCalls(CallReader):
    """See `CallReader`."""

    marks = ("<|python_start|>",)
    closing = "<|python_end|>"
    bare = "["

    def __init__(self, names: Set[str], *, lines: bool = True) -> None:
        super().__init__(names, lines=lines)
        self._value = PythonValue()

    def _begin(self, mark: str) -> State:
        return self._bracket

    def _bracket(self) -> bool:
        rest = self._past_blanks()
        if not rest and self._waits():
            return False
        if rest[:1] != "[":
            return self._give_back()
        self._at += 1
        self._given = max(self._given, self._at)
        self._state = self._head
        return True

    def _head(self) -> bool:
        rest = self._buffer[self._at :]
        head = _HEAD.match(rest)
        # What may yet become `==` is decided by the next character.
        if head is None or (head.end() == len(rest) and not head[2]):
            return False if self._may_be(rest, _PART_OF_HEAD) else self._give_back()
        name, closed, argument = head.groups()
        if name not in self._names:
            return self._give_back()
        self._at += head.end()
        self._confirm()
        self._out.append(Called(name))
        if closed:
            return self._finish("{}")
        return self._argument("{", argument)

    def _argument(self, before: str, name: str) -> bool:
        self._out.append(Arguments(f"{before}{json.dumps(name, ensure_ascii=False)}: "))
        self._value, self._state = PythonValue(), self._read_value
        return True

    def _read_value(self) -> bool:
        end, written = self._value.take(self._buffer)
        self._out.append(Arguments(written))
        self._buffer = self._buffer[end:]
        if self._value.state == "broken":
            self._state = self._spoilt
            return True
        if self._value.state == "done":
            self._state = self._behind_value
            return True
        return self._cut_off()

    def _behind_value(self) -> bool:
        rest = self._past_blanks()
        if not rest:
            return self._cut_off()
        if rest[0] == ")":
            self._at += 1
            return self._finish("}")
        if rest[0] != ",":
            self._at, self._state = 0, self._spoilt
            return True
        self._at += 1
        self._buffer, self._at = self._buffer[self._at :], 0
        self._state = self._next_argument
        return True

    def _next_argument(self) -> bool:
        name = _NEXT_NAME.match(self._buffer)
        if name is not None and name.end() < len(self._buffer):
            self._buffer = self._buffer[name.end() :]
            return self._argument(", ", name[1])
        if self._buffer.lstrip()[:1] == ")":  # Python allows a comma behind the last
            self._past_blanks()
            self._at += 1
            return self._finish("}")
        if self._over or self._may_be(self._buffer, _PART_OF_NAME):
            return self._cut_off()
        self._out.append(Arguments(","))
        self._state = self._spoilt
        return True

    def _finish(self, rest: str) -> bool:
        self._confirm()
        self._out.append(Arguments(rest))
        self._end_call()
        self._state = self._behind_call_of_list
        return True

    def _behind_call_of_list(self) -> bool:
        rest = self._past_blanks()
        if not rest and not self._over:
            return False
        if rest[:1] == "]":
            self._at += 1
            self._frame_open = True
            return self._resume()
        if rest[:1] == ",":
            self._at += 1
            self._given = self._at
            self._state = self._head
            return True
        self._at = 0
        return self._resume()

    def _cut_off(self) -> bool:
        """Wait for more; where there is none, the call ends as far as it got."""
        if self._over:
            self._out.append(Arguments(self._value.undecided))
            self._buffer = ""
            self._end_call()
            self._state = self._prose
        return False

    def _spoilt(self) -> bool:
        """Hand on as arguments what is no literal any more; where the call would end nobody can tell."""
        self._out.append(Arguments(self._buffer))
        self._buffer = ""
        return self._cut_off()

    def _may_be(self, text: str, pattern: re.Pattern[str]) -> bool:
        return not self._over and len(text) <= MAX_WORD * 2 and pattern.fullmatch(text) is not None

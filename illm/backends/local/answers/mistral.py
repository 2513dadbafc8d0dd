"""Mistral: `[TOOL_CALLS]` and an array of objects, or, newer, a name, `[ARGS]`, and the arguments alone."""

import re
from collections.abc import Set

from illm.backends.local.answers.call_reader import State
from illm.backends.local.answers.json_value import JSONValue
from illm.backends.local.answers.object_calls import ObjectCalls
from illm.backends.local.answers.pieces import Arguments, Called

_HEAD = re.compile(r"\s*([^\s\[{]+)\s*(?:\[CALL_ID\]([^\[{]*))?(?:\[ARGS\])?\s*(?=\{)")
_PART_OF_HEAD = re.compile(r"\s*[^\s\[{]*\s*(?:\[[^{]*)?")
MAX_HEAD = 1024
"""Characters that a name and an id may have."""


class MistralCalls(ObjectCalls):
    """See `CallReader`."""

    marks = ("[TOOL_CALLS]",)

    def __init__(self, names: Set[str], *, lines: bool = True) -> None:
        super().__init__(names, lines=lines)
        self._value = JSONValue()
        self._listed = False

    def _begin(self, mark: str) -> State:
        self._listed = False
        return self._opening

    def _opening(self) -> bool:
        rest = self._past_blanks()
        if not rest:
            return False if self._waits() else self._give_back()
        if rest[0] == "[":
            self._at += 1
            self._listed = True
            return self._new_object()
        if rest[0] == "{":
            return self._new_object()
        self._state = self._head
        return True

    def _head(self) -> bool:
        rest = self._buffer[self._at :]
        head = _HEAD.match(rest)
        if head is None:
            possible = _PART_OF_HEAD.fullmatch(rest) is not None and len(rest) <= MAX_HEAD
            return False if possible and self._waits() else self._give_back()
        if head[1] not in self._names:
            return self._give_back()
        self._at += head.end()
        self._confirm()
        self._out.append(Called(head[1]))
        self._value = JSONValue()
        self._state = self._read_arguments
        return True

    def _read_arguments(self) -> bool:
        end, read = self._value.take(self._buffer)
        self._out.append(Arguments(read))
        self._buffer = self._buffer[end:]
        if self._value.state == "open" and not self._over:
            return False
        if self._value.state == "broken":
            self._state = self._spoilt
            return True
        self._end_call()
        return self._resume()

    def _after_object(self) -> bool:
        if not self._listed:
            return self._resume()
        self._state = self._separator
        return True

    def _separator(self) -> bool:
        rest = self._past_blanks()
        if not rest and not self._over:
            return False
        if rest[:1] == "]":
            self._at += 1
            return self._resume()
        if rest[:1] == "," and not rest[1:].strip() and not self._over:
            return False
        return self._another(",")

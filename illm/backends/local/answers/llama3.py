"""Llama 3: `{"name": "f", "parameters": {...}}`, bare or behind `<|python_tag|>`, several with `;` between."""

from illm.backends.local.answers.call_reader import State
from illm.backends.local.answers.object_calls import ObjectCalls


class Llama3Calls(ObjectCalls):
    """See `CallReader`.

    Bare, an object has to begin a line, and to be a call of a tool, or it is an answer that happens to be JSON.
    """

    marks = ("<|python_tag|>",)
    bare = "{"

    def _begin(self, mark: str) -> State:
        return self._new_object

    def _after_object(self) -> bool:
        self._state = self._separator
        return True

    def _separator(self) -> bool:
        rest = self._past_blanks()
        if not rest and not self._over:
            return False
        if rest[:1] in (";", ",") and not rest[1:].strip() and not self._over:
            return False  # whether it separates shows in what follows
        return self._another(";,")

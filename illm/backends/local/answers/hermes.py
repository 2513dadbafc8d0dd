"""Hermes, Qwen and their like: `<tool_call>{"name": "f", "arguments": {...}}</tool_call>`, once a call."""

from illm.backends.local.answers.call_reader import State
from illm.backends.local.answers.object_calls import ObjectCalls


class HermesCalls(ObjectCalls):
    """See `CallReader`."""

    marks = ("<tool_call>",)
    closing = "</tool_call>"

    def _begin(self, mark: str) -> State:
        return self._new_object

    def _after_object(self) -> bool:
        self._frame_open = True
        return self._resume()

"""The chunks of a stream put right: what must be remembered from one to the next is remembered here."""

from typing import Any

from illm.backends.remote.repair import (
    JSON,
    Asked,
    ToolCalls,
    finish_reason,
    gateway_name,
    incomplete,
    read_usage,
    repair_usage,
)
from illm.backends.remote.repair_logprobs import repair_logprobs
from illm.core.events import Usage
from illm.core.requests import Chat


class ChunkRepair:
    """One stream's repairs.

    Args:
        asked: what the stream has to look like.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._chat = isinstance(asked.request, Chat)
        self._head: JSON = {}
        self._introduced = 0  # choices that clients have seen: 0 to this, exclusive
        self._roles: set[int] = set()
        self._calls: dict[int, ToolCalls] = {}
        self._offsets: dict[int, int] = {}
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self.usage: Usage | None = None

    def check_complete(self) -> None:
        """Raise `GatewayError` unless every choice that began has ended, and one has."""
        if self._open or not self._finished:
            raise incomplete(self._asked)

    def repair(self, chunk: JSON) -> list[JSON]:
        """Return the chunks to send instead of one; perhaps none.

        Raises:
            GatewayError: the chunk says that the request failed.
        """
        asked = self._asked
        asked.raise_error_in(chunk)
        self._set_head(chunk)
        usage = self._take_usage(chunk)
        chunks: list[JSON] = []
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                chunks += self._repair_choice(chunk, choice)
        if usage is None:
            return chunks
        if not asked.continuous_usage:
            return [*chunks, {**chunk, "choices": [], "usage": usage}]
        for fixed in chunks:
            fixed["usage"] = usage
        return chunks or [{**chunk, "choices": [], "usage": usage}]

    def _set_head(self, chunk: JSON) -> None:
        # Some servers give every choice an id of its own; clients expect one answer to have one.
        if not self._head:
            self._head = {name: chunk[name] for name in ("id", "created") if name in chunk}
        chunk |= self._head
        if "model" in chunk or self._asked.request.model:
            chunk["model"] = gateway_name(self._asked.request, chunk.get("model"))

    def _take_usage(self, chunk: JSON) -> JSON | None:
        usage = chunk.pop("usage", None)
        counted = read_usage(usage)
        if counted is None:
            return None
        self.usage = counted
        # A server can be told to count unasked; a client that did not ask may not expect a chunk without choices.
        return repair_usage(usage, self._asked.copies) if self._asked.request.include_usage else None

    def _repair_choice(self, chunk: JSON, choice: JSON) -> list[JSON]:
        copies = self._asked.copies
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        if index not in self._finished:
            self._open.add(index)
        before = self._introduce(chunk, (index + 1) * copies)
        if self._chat:
            empty = not self._repair_delta(index, choice)
        else:
            empty = not choice.get("text")
            self._offsets[index] = repair_logprobs(choice, self._offsets.get(index, 0))
        called = bool(self._calls.get(index))
        choice["finish_reason"] = finish_reason(self._asked, choice.get("finish_reason"), called=called)
        if choice["finish_reason"] is not None:
            if index in self._finished:
                choice["finish_reason"] = None  # a second end is none
            self._finished.add(index)
            self._open.discard(index)
        elif empty and not choice.get("logprobs"):
            return before
        choice.setdefault("logprobs", None)
        return before + [{**chunk, "choices": [{**choice, "index": index * copies + copy}]} for copy in range(copies)]

    def _introduce(self, chunk: JSON, count: int) -> list[JSON]:
        # Clients append a choice when they first see it: a chunk of choice 1 before any of 0 breaks them.
        missing = range(self._introduced, count)
        self._introduced = max(self._introduced, count)
        if not self._chat:
            return []
        opening = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [{**chunk, "choices": [{"index": index, **opening}]} for index in missing]

    def _repair_delta(self, index: int, choice: JSON) -> bool:
        """Put a delta right in place, and say whether anything is left of it."""
        given = choice.get("delta")
        delta: dict[str, Any] = {}
        if isinstance(given, dict):
            # The role has gone out with the choice's first chunk.  A null says nothing.
            delta = {name: value for name, value in given.items() if value is not None and name != "role"}
        reasoning = delta.pop("reasoning", None)
        if reasoning and not delta.get("reasoning_content"):
            delta["reasoning_content"] = reasoning
        calls = delta.pop("tool_calls", None)
        if calls and isinstance(calls, list):
            fixed = self._calls.setdefault(index, ToolCalls()).repair(calls)
            if self._asked.single_call:
                fixed = [call for call in fixed if call["index"] == 0]
            if fixed:
                delta["tool_calls"] = fixed
        choice["delta"] = delta
        return any(delta.values())

"""A conversation as chat templates take it: one dict a turn, tool calls and their results among them."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from illm.core.requests import Message, ToolCall
from illm.errors import GatewayError, Kind

# Few templates know `developer`; it is the newer name of the same thing.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TOOL_ROLES = {"tool": "tool", "function": "tool"}

_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")


class TurnWriter:
    """Writes turns for one model's template.

    Args:
        content: given a message and its place in the request, what the template gets for its content.
        tools: whether the template knows turns of tools.
        text_arguments: whether it takes the arguments of a call as JSON text; most take an object.
        short_ids: whether it insists on ids of nine letters and digits.
    """

    def __init__(
        self,
        content: Callable[[Message, str], Any],
        *,
        tools: bool,
        text_arguments: bool = False,
        short_ids: bool = False,
    ) -> None:
        self._content = content
        self._tools = tools
        self._text_arguments = text_arguments
        self._short_ids = short_ids

    def write(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return the turns.

        Raises:
            GatewayError: `INVALID_REQUEST` for a role that does not exist; `CAPABILITY` for parts that the model does
                not take, and for tools where the template knows none.
        """
        names: dict[str, str] = {}  # of the tools called so far, by call id
        turns = []
        for index, message in enumerate(messages):
            turns.append(self._turn(index, message, names))
            names |= {call.id: call.name for call in message.tool_calls if call.id}
        return turns

    def _turn(self, index: int, message: Message, names: Mapping[str, str]) -> dict[str, Any]:
        path = f"messages[{index}]"
        role = ROLES.get(message.role) or TOOL_ROLES.get(message.role)
        if role is None:
            raise GatewayError(
                Kind.INVALID_REQUEST, f"{path}.role must be one of {', '.join(ROLES)}.", param=f"{path}.role"
            )
        field = "role" if role == "tool" else "tool_calls" if message.tool_calls else None
        if field is not None and not self._tools:
            raise GatewayError(Kind.CAPABILITY, "This model's chat template knows no tools.", param=f"{path}.{field}")
        turn: dict[str, Any] = {"role": role, "content": self._content(message, f"{path}.content")}
        name = names.get(message.tool_call_id or "", message.name) if role == "tool" else message.name
        if name:
            turn["name"] = name
        if message.tool_call_id:
            turn["tool_call_id"] = self._id(message.tool_call_id)
        if message.reasoning:
            turn["reasoning_content"] = message.reasoning
        if message.tool_calls:
            turn["tool_calls"] = [
                self._call(call, call.id or f"{index}.{at}") for at, call in enumerate(message.tool_calls)
            ]
        return turn

    def _call(self, call: ToolCall, known_as: str) -> dict[str, Any]:
        return {
            "id": self._id(known_as),
            "type": "function",
            "function": {"name": call.name, "arguments": self._arguments(call.arguments)},
        }

    def _arguments(self, text: str) -> Any:
        """Return arguments as the template takes them; what is no JSON object stays the text that it is."""
        try:
            value = json.loads(text or "{}")
        except ValueError:
            return text
        return value if isinstance(value, dict) and not self._text_arguments else text or "{}"

    def _id(self, known_as: str) -> str:
        if not self._short_ids or _SHORT_ID.fullmatch(known_as):
            return known_as
        return hashlib.sha256(known_as.encode("utf-8", "surrogatepass")).hexdigest()[:9]

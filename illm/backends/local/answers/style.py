"""How one model's answers look: its format of calls, its reasoning, and what its chat template takes.

Decided once from the template and the tokenizer; asked for each request what goes to the template (`ask`) and how the
answer is to be read (`plan`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from illm.backends.local.answers.formats import FORMATS, Format, detect
from illm.backends.local.answers.layout import Marks, Thinks, after_thinking, forced, free
from illm.backends.local.answers.plan import AnswerPlan
from illm.backends.local.answers.thinking import TAGS, tags_in
from illm.core.requests import Chat, Tool, ToolChoice
from illm.errors import GatewayError, Kind

_AUTO = ToolChoice("auto")

_OURS = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "dict",
        "documents",
        "max_length",
        "messages",
        "namespace",
        "padding",
        "raise_exception",
        "range",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "strftime_now",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
"""Names that templates look up, or that whoever renders them does, and that are not the client's to set."""

THINKING_SWITCHES = ("enable_thinking", "thinking")
"""What templates call the variable that switches reasoning on and off."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a chat template gets beside the messages.

    Args:
        tools: as JSON schemas in OpenAI's shape, or None.
        variables: by name.
    """

    tools: list[dict[str, Any]] | None = None
    variables: Mapping[str, Any] | None = None


NOTHING_ASKED = Asked()


class AnswerStyle:
    """See the module.

    Args:
        template: the chat template, all of it that speaks of tools included.
        variables: the names that the template looks up.
        special: the tokenizer's special tokens and their ids.
        tool_format: a name in `FORMATS`, `auto` to find out, `none` for a model without tools.
        reasoning: `auto` where the template speaks of it, `on`, or `off`.
    """

    def __init__(
        self,
        template: str,
        variables: frozenset[str],
        special: Mapping[str, int],
        *,
        tool_format: str = "auto",
        reasoning: str = "auto",
    ) -> None:
        self._variables = frozenset(name for name in variables - _OURS if not name.endswith("_token"))
        self._special = special
        self.takes_tools = "tools" in variables and tool_format != "none"
        self.format: Format | None = detect(template) if tool_format == "auto" else FORMATS.get(tool_format)
        self._layout = None if self.format is None else self.format.layout(template)
        found = tags_in(template)
        self.tags = None if reasoning == "off" else (found or TAGS[0]) if reasoning == "on" else found

    @property
    def calls(self) -> bool:
        """Whether tools can be offered to this model."""
        return self.takes_tools and self.format is not None

    def ask(self, request: Chat) -> Asked:
        """Return what the template is to be told.

        Raises:
            GatewayError: `CAPABILITY` for tools where the model has none; `UNSUPPORTED_PARAMETER` for what the
                template would not look at; `INVALID_REQUEST` for what makes no sense.
        """
        if request.plain:
            return NOTHING_ASKED
        tools = self._offered(request)
        variables = self._given(request)
        self._effort(request, variables)
        return Asked([_tool(tool) for tool in tools] or None, variables or None)

    def plan(self, request: Chat, tail: str) -> AnswerPlan | None:
        """Return how the answer is to be read; None where all of it is content.

        Args:
            request: one that `ask` has looked at.
            tail: the end of the prompt's text, control tokens included.

        Raises:
            GatewayError: `INVALID_REQUEST` for a tool that cannot be written in the model's format.
        """
        thinks = self._thinks(tail)
        tools = () if request.plain else self._offered(request)
        if not tools or self.format is None or self._layout is None:
            return None if thinks is None else AnswerPlan(thinks=thinks, **self._kept(thinks, ()))
        choice = request.tool_choice or _AUTO
        one = choice.mode == "named" or not request.parallel_tool_calls
        grammar = self._grammar(tools, choice, many=not one, thinks=thinks)
        return AnswerPlan(
            grammar=grammar,
            thinks=thinks,
            # A grammar knows bare calls only at the beginning; what looks like one later on follows no schema.
            calls=partial(self.format.reader, lines=grammar is None),
            names=frozenset(tool.name for tool in tools),
            one=one,
            ending="stop" if choice.mode == "named" else "tool_calls",  # as OpenAI has it
            new_id=self.format.new_id,
            **self._kept(thinks, self.format.marks),
        )

    def after_thinking(self, rules: str, thinks: Thinks) -> str:
        """Return a grammar whose answer may begin with reasoning; see `layout.after_thinking`."""
        return after_thinking(rules, self._marks(thinks.tags), thinks)

    def _marks(self, marks: Sequence[str]) -> Marks:
        return Marks({mark: self._special[mark] for mark in marks if mark in self._special})

    def _offered(self, request: Chat) -> Sequence[Tool]:
        mode = "auto" if request.tool_choice is None else request.tool_choice.mode
        if not request.tools:
            if mode in ("required", "named"):
                raise GatewayError(
                    Kind.INVALID_REQUEST, "tool_choice: there are no tools to choose from", param="tool_choice"
                )
            return ()
        if mode == "none":
            # Not even shown to the model: it could call all the same.
            return ()
        if not self.takes_tools:
            raise GatewayError(Kind.CAPABILITY, "This model's chat template knows no tools.", param="tools")
        if self._layout is None:
            raise GatewayError(
                Kind.CAPABILITY,
                "It is not known how this model writes tool calls; the operator can say so with --tool-format.",
                param="tools",
            )
        for at, tool in enumerate(request.tools):
            writable = self._layout.names is None or self._layout.names.fullmatch(tool.name)
            if not writable or any(token in tool.name for token in self._special):
                raise GatewayError(
                    Kind.INVALID_REQUEST,
                    f"tools[{at}].function.name: this model's format of calls cannot write this name",
                    param=f"tools[{at}].function.name",
                )
        return request.tools

    def _grammar(self, tools: Sequence[Tool], choice: ToolChoice, *, many: bool, thinks: Thinks | None) -> str | None:
        assert self._layout is not None and self.format is not None  # noqa: S101, PT018 - `plan` has looked
        tags = () if thinks is None else thinks.tags
        marks = self._marks((*self.format.marks, *tags))
        if choice.mode == "named":
            tools = [tool for tool in tools if tool.name == choice.name]
        write = forced if choice.mode in ("required", "named") else free
        if write is free and not any(tool.strict for tool in tools):
            return None
        try:
            return write(self._layout, tools, marks, many=many, thinks=thinks)
        except ValueError as error:
            raise GatewayError(Kind.INVALID_REQUEST, f"tools: {error}", param="tools") from error

    def _thinks(self, tail: str) -> Thinks | None:
        if self.tags is None:
            return None
        tail = tail.rstrip()
        if tail.endswith(self.tags.closing):  # how templates write that there shall be none
            return None
        return Thinks(self.tags, tail.endswith(self.tags.opening))

    def _kept(self, thinks: Thinks | None, marks: Sequence[str]) -> dict[str, Any]:
        wanted = (*marks, *(thinks.tags if thinks is not None else ()))
        hidden = tuple(mark for mark in wanted if mark in self._special)
        return {"keep": frozenset(self._special[mark] for mark in hidden), "hidden": hidden}

    def _given(self, request: Chat) -> dict[str, Any]:
        given = request.body.get("chat_template_kwargs")
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise GatewayError(
                Kind.INVALID_REQUEST, "chat_template_kwargs: expected an object", param="chat_template_kwargs"
            )
        variables = {}
        for name, value in given.items():
            if name in self._variables:
                variables[name] = value
            elif value:  # a template that does not know a variable does as if it were false
                raise GatewayError(
                    Kind.UNSUPPORTED_PARAMETER,
                    f"The parameter 'chat_template_kwargs.{name[:64]}' is not supported: "
                    "this model's chat template does not look at it.",
                    param=f"chat_template_kwargs.{name[:64]}",
                )
        return variables

    def _effort(self, request: Chat, variables: dict[str, Any]) -> None:
        effort = request.reasoning_effort
        if effort is None:
            return
        switch = next((name for name in THINKING_SWITCHES if name in self._variables), None)
        if "reasoning_effort" in self._variables:
            variables.setdefault("reasoning_effort", effort)
        if switch is not None:
            variables.setdefault(switch, effort != "none")
        elif effort != "none" and "reasoning_effort" not in self._variables:
            raise GatewayError(
                Kind.UNSUPPORTED_PARAMETER,
                "The parameter 'reasoning_effort' is not supported: this model's chat template does not look at it.",
                param="reasoning_effort",
            )


def _tool(tool: Tool) -> dict[str, Any]:
    """Return a tool in OpenAI's shape.  Templates look up all three, and a missing one may break them."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description or "",
            "parameters": dict(tool.parameters or {"type": "object", "properties": {}}),
        },
    }

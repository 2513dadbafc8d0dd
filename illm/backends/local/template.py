"""Chat templates: the one of models that bring none, and what can be read off the others."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a base model has seen most of in its training: a dialogue in plain words.
FALLBACK = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] }}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

# A base model goes on with the dialogue and plays every part in it.
FALLBACK_STOPS = ("\nUser:", "\nAssistant:", "\nSystem:")

_ARGUMENTS = {"place": "here"}


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """What a chat template says about itself.

    Args:
        text: its source, with that of the variant for tools where there is one.
        variables: the names that it looks up.
        short_ids: it insists on ids of nine characters.
    """

    text: str
    variables: frozenset[str]
    short_ids: bool

    @classmethod
    def of(cls, tokenizer: Any, given: str | None) -> "TemplateFacts":
        """Read a tokenizer's template, or the given one."""
        from jinja2.ext import Extension, loopcontrols
        from jinja2.meta import find_undeclared_variables
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):  # type: ignore[misc]
            """Transformers' mark around what an assistant says; here only its contents matter."""

            tags = {"generation"}  # noqa: RUF012 - as jinja has it

            def parse(self, parser: Any) -> Any:
                next(parser.stream)
                return parser.parse_statements(("name:endgeneration",), drop_needle=True)

        sources = [given] if given else [tokenizer.get_chat_template(), tokenizer.get_chat_template(tools=[{}])]
        text = "\n".join(dict.fromkeys(sources))
        environment = ImmutableSandboxedEnvironment(extensions=[loopcontrols, Generation])
        variables = frozenset[str]().union(*(find_undeclared_variables(environment.parse(one)) for one in sources))
        return cls(text, variables, re.search(r"length\s*[!=]=\s*9\b", text) is not None)


def template_in(directory: Path) -> str:
    """Return the chat template in a model's directory, of all its variants; empty where there is none to be read."""
    parts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(directory.glob("*.jinja"))]
    parts += [
        path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(directory.glob("additional_chat_templates/*.jinja"))
    ]
    try:
        told = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        told = None
    if isinstance(told, list):
        parts += [str(variant.get("template")) for variant in told if isinstance(variant, dict)]
    elif isinstance(told, str):
        parts.append(told)
    return "\n".join(parts)


def wants_text_arguments(render: Callable[[list[dict[str, Any]]], str]) -> bool:
    """Whether a template takes the arguments of a call as JSON text.

    Args:
        render: renders turns to text; raises what the template raises.

    Returns:
        True where an object breaks it, or comes out as Python would print it; else an object will do.
    """
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": _ARGUMENTS}}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "f", "tool_call_id": "abcdefghi", "content": "1"},
    ]
    try:
        return str(_ARGUMENTS) in render(turns)
    except TypeError:
        return True
    except Exception:  # it refuses these turns, for reasons of its own
        return False

"""How a format writes calls, and the grammar that holds a model to it.

The grammar is Lark as llguidance reads it.  Blanks are those that models of the format were trained on, and hardly any
others, so that a model cannot fill its limit with them.  Each tool's schema is a grammar of its own, with `$ref`s of
its own.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from illm.backends.local.answers.keywords import keyword_rules
from illm.backends.local.answers.thinking import Tags
from illm.core.requests import Tool

MAX_CALLS = 64
"""Calls of one answer that is made to call: else a model might never do anything else."""

_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    # `oneOf` whose branches may overlap counts as `anyOf`.
    "coerce_one_of": True,
}

_ANYTHING = r"/(.|\n)*/"


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands around the arguments of calls.

    Args:
        before: given a tool's name, what stands before its arguments.
        after: what stands after them.
        opening, separator, closing: what stands around and between several calls.
        keywords: the arguments are Python's (`a=1, b="x"`), not a JSON object.
        names: what a name must look like, where not every name can be written.
    """

    before: Callable[[str], str]
    after: str = ""
    opening: str = ""
    separator: str = ""
    closing: str = ""
    keywords: bool = False
    names: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class Marks:
    """How a model's tokenizer has the marks of its format.

    Args:
        special: those that are special tokens, and their ids: text cannot make them, only their tokens can.
    """

    special: Mapping[str, int]

    def terms(self, text: str) -> str:
        """Return what matches `text`, as terms of a rule."""
        if not text:
            return ""
        if not self.special:
            return json.dumps(text)
        parts = re.split(f"({'|'.join(map(re.escape, self.special))})", text)
        return " ".join(self._term(part) for part in parts if part)

    def _term(self, part: str) -> str:
        return f"<[{self.special[part]}]>" if part in self.special else json.dumps(part)


@dataclass(frozen=True, slots=True)
class Thinks:
    """The reasoning that an answer may begin with.

    Args:
        tags: around it.
        opened: the prompt ends inside it.
    """

    tags: Tags
    opened: bool


def forced(
    layout: Layout,
    tools: Sequence[Tool],
    marks: Marks,
    *,
    many: bool,
    thinks: Thinks | None = None,
    otherwise: str | None = None,
) -> str:
    """Write the grammar of an answer that is calls and nothing else.

    Args:
        layout: the format's.
        tools: those that may be called.
        marks: the tokenizer's.
        many: whether there may be several calls.
        thinks: the reasoning that may come first.
        otherwise: what the answer may be instead, as what stands behind the colon of a rule.

    Raises:
        ValueError: a tool's parameters cannot be written in this format; it says which and why.
    """
    rules = _thinking("answer", marks, thinks)
    rules.append("answer: calls" if otherwise is None else "answer: calls | content")
    if otherwise is not None:
        rules.append(f"content: {otherwise}")
    more = f" ({marks.terms(layout.separator)} call){{0,{MAX_CALLS - 1}}}" if many else ""
    rules.append(f"calls: {marks.terms(layout.opening)} call{more} {marks.terms(layout.closing)}")
    return _grammar([*rules, *_calls(layout, tools, marks)])


def free(layout: Layout, tools: Sequence[Tool], marks: Marks, *, many: bool, thinks: Thinks | None = None) -> str:
    """Write the grammar of an answer that is text with calls in it or without, each of which follows its schema.

    Args, raises: as for `forced`.
    """
    start = layout.opening or layout.before("")
    mark = next((mark for mark in ("<tool_call>", "[TOOL_CALLS]") if start.startswith(mark)), None)
    calls = _calls(layout, tools, marks, without=mark or "")
    separator, opening = marks.terms(layout.separator), marks.terms(layout.opening.removeprefix(mark or ""))
    closing = marks.terms(layout.closing)
    if mark is None:
        # Calls have no mark of their own: the first character decides, and text that begins so is no text.
        more = f" ({separator} call){{0,{MAX_CALLS - 1}}}" if many else ""
        rules = [
            *_thinking("answer", marks, thinks),
            "answer: TEXT | calls",
            rf"TEXT: /([^{re.escape(start[0])}\s](.|\n)*)?/",
            f"calls: {opening} call{more} {closing}",
        ]
        return _grammar([*rules, *calls])
    listed = f"{opening} call ({separator} call){{0,{MAX_CALLS - 1}}} {closing}" if layout.opening and many else None
    rules = [
        *_thinking("answer", marks, thinks),
        f"answer: marked{f'{{0,{MAX_CALLS}}}' if many else '?'} TEXT",
        f"TEXT: {_ANYTHING}",
        f"marked: to_mark {listed or f'{opening} call {closing}'}",
        f"to_mark{'' if mark in marks.special else '[lazy]'}: TEXT {marks.terms(mark)}",
    ]
    return _grammar([*rules, *calls])


def after_thinking(rules: str, marks: Marks, thinks: Thinks) -> str:
    """Let an answer that has to follow a grammar begin with its reasoning.

    Args:
        rules: Lark, without options, whose first rule is called `answer`.
        marks, thinks: as for `forced`.
    """
    return _grammar([*_thinking("answer", marks, thinks), rules])


def parameters(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's arguments: always an object, of what the tool names and nothing else.

    Raises:
        ValueError: the tool says that they are something else.
    """
    schema = dict(tool.parameters or {"type": "object", "properties": {}})
    if schema.setdefault("type", "object") != "object":
        raise ValueError(f"the parameters of {tool.name!r} are no object")
    if "properties" in schema and not schema.keys() & {"$ref", "anyOf", "oneOf", "allOf", "patternProperties"}:
        schema.setdefault("additionalProperties", False)
    return schema


def json_rule(name: str, schema: Mapping[str, Any]) -> str:
    """Return a rule for JSON of a schema, with the blanks that models write."""
    return f"{name}: %json {json.dumps({**schema, 'x-guidance': _OPTIONS})}"


def _calls(layout: Layout, tools: Sequence[Tool], marks: Marks, without: str = "") -> list[str]:
    rules = [f"call: {' | '.join(f'call_{at}' for at in range(len(tools)))}"]
    for at, tool in enumerate(tools):
        schema = parameters(tool)
        before = layout.before(tool.name)
        if not layout.opening:
            before = before.removeprefix(without)
        rules.append(f"call_{at}: {marks.terms(before)} arguments_{at} {marks.terms(layout.after)}")
        if layout.keywords:
            rules += keyword_rules(f"arguments_{at}", tool.name, schema, json_rule)
        else:
            rules.append(json_rule(f"arguments_{at}", schema))
    return rules


def _thinking(then: str, marks: Marks, thinks: Thinks | None) -> list[str]:
    if thinks is None:
        return [f"start: {then}"]
    opening, closing = thinks.tags
    if closing in marks.special:
        thought = f"thought: {_ANYTHING} <[{marks.special[closing]}]>"
    else:
        thought = f"thought[suffix={json.dumps(closing)}]: {_ANYTHING}"
    whole = f"thought BREAKS {then}"
    start = whole if thinks.opened else f"{then} | {marks.terms(opening)} {whole}"
    return [f"start: {start}", thought, r"BREAKS: /\n{0,2}/"]


def _grammar(rules: Sequence[str]) -> str:
    return "\n".join(("%llguidance {}", *rules, ""))

"""The formats in which models call tools: one table, and how to tell from a chat template which one a model uses."""

import json
import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from illm.backends.local.answers.call_reader import CallReader
from illm.backends.local.answers.hermes import HermesCalls
from illm.backends.local.answers.layout import Layout
from illm.backends.local.answers.llama3 import Llama3Calls
from illm.backends.local.answers.mistral import MistralCalls
from illm.backends.local.answers.pythonic import PythonicCalls
from illm.backends.local.answers.reader import call_id, short_id


class MakeReader(Protocol):
    """How parsers are made; see `CallReader`."""

    def __call__(self, names: Set[str], *, lines: bool = True) -> CallReader:
        """Return a parser of one answer."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing calls.

    Args:
        name: as the configuration has it.
        reader: makes a parser, given the tools' names.
        layout: given the chat template, how calls are written for grammars.
        marks: strings that may be special tokens, and that the parser needs to see.
        signs: what a template that uses the format contains: all strings of one of these.
        others: what it does not contain, as it belongs to formats that look alike.
        new_id: makes ids that the format's templates take.
    """

    name: str
    reader: MakeReader
    layout: Callable[[str], Layout]
    marks: tuple[str, ...]
    signs: tuple[tuple[str, ...], ...]
    others: tuple[str, ...] = ()
    new_id: Callable[[], str] = call_id


def _hermes(template: str) -> Layout:
    return Layout(
        lambda name: f'<tool_call>\n{{"name": {_quoted(name)}, "arguments": ', "}\n</tool_call>", separator="\n"
    )


def _llama3(template: str) -> Layout:
    return Layout(lambda name: f'{{"name": {_quoted(name)}, "parameters": ', "}", separator="; ")


def _mistral(template: str) -> Layout:
    if "[ARGS]" in template:
        return Layout(lambda name: f"[TOOL_CALLS]{name}[ARGS]", names=re.compile(r"[^\s\[{]+"))
    return Layout(
        lambda name: f'{{"name": {_quoted(name)}, "arguments": ',
        "}",
        opening="[TOOL_CALLS][",
        separator=", ",
        closing="]",
    )


def _pythonic(template: str) -> Layout:
    return Layout(
        lambda name: f"{name}(",
        ")",
        opening="[",
        separator=", ",
        closing="]",
        keywords=True,
        names=re.compile(r"[^\W\d][\w.-]*"),
    )


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


_FORMATS = (
    Format(
        "mistral",
        MistralCalls,
        _mistral,
        ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
        (("[TOOL_CALLS]",),),
        new_id=short_id,
    ),
    Format(
        "hermes",
        HermesCalls,
        _hermes,
        ("<tool_call>", "</tool_call>"),
        (("<tool_call>",),),
        # Calls in XML and in pairs of keys and values have the same mark around them.
        others=("<function=", "<arg_key>"),
    ),
    Format(
        "pythonic",
        PythonicCalls,
        _pythonic,
        ("<|python_start|>", "<|python_end|>"),
        (("<|python_start|>",), ("[func_name1(",)),
    ),
    Format(
        "llama3",
        Llama3Calls,
        _llama3,
        ("<|python_tag|>",),
        (("<|python_tag|>",), ("<|start_header_id|>", '"parameters"')),
    ),
)

FORMATS: Mapping[str, Format] = {format_.name: format_ for format_ in _FORMATS}
"""By name, in the order in which `detect` tries them."""


def detect(template: str) -> Format | None:
    """Return the format that a chat template speaks of, or None where it speaks of none that is known."""
    for format_ in _FORMATS:
        if any(other in template for other in format_.others):
            continue
        if any(all(sign in template for sign in signs) for signs in format_.signs):
            return format_
    return None

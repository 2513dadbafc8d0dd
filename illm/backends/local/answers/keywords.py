"""A schema's properties as the arguments of a call in Python's manner: `a=1, b="x"`, in the schema's order."""

import re
from collections.abc import Callable, Mapping
from typing import Any

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KNOWN = {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "title", "description"}
_SHARED = ("$defs", "definitions")


def keyword_rules(
    name: str, tool: str, schema: Mapping[str, Any], json_rule: Callable[[str, Mapping[str, Any]], str]
) -> list[str]:
    """Write the rules for one tool's arguments.

    Args:
        name: of the first rule; the others begin with it.
        tool: the tool's name, for errors.
        schema: of an object.
        json_rule: writes the rule of a value.

    Raises:
        ValueError: the schema says more than which arguments there are, or one has a name that Python could not.
    """
    if unknown := sorted(schema.keys() - _KNOWN - {"$schema", "$id"}):
        raise ValueError(f"the parameters of {tool!r} cannot be written as Python's arguments: {unknown[0]}")
    properties = schema.get("properties") or {}
    required = set(schema.get("required") or ())
    for argument in (*properties, *required):
        if not _IDENTIFIER.fullmatch(argument) or argument not in properties:
            raise ValueError(f"the parameter {argument!r} of {tool!r} cannot be written as an argument of Python's")
    shared = {key: schema[key] for key in _SHARED if key in schema}
    # Two chains of rules, since a comma stands before every argument but the first that is there.
    rules = [f"{name}: {name}_first_0"]
    for at, (argument, value) in enumerate(properties.items()):
        may_be_left_out = argument not in required
        first = f'"{argument}=" {name}_value_{at} {name}_more_{at + 1}'
        more = f'", {argument}=" {name}_value_{at} {name}_more_{at + 1}'
        rules += [
            f"{name}_first_{at}: {first}" + (f" | {name}_first_{at + 1}" if may_be_left_out else ""),
            f"{name}_more_{at}: {more}" + (f" | {name}_more_{at + 1}" if may_be_left_out else ""),
            json_rule(f"{name}_value_{at}", {**(value if isinstance(value, Mapping) else {}), **shared}),
        ]
    end = len(properties)
    return [*rules, f'{name}_first_{end}: ""', f'{name}_more_{end}: ""']

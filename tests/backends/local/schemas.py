"""Schemas made by chance, and a judge of what came of them that is none of ours."""

import random
from typing import Any

import pytest

WORDS = ("a", "name", "the answer", "größe", 'quo"ted', "back\\slash", "x" * 30)


def conforms(value: Any, schema: dict[str, Any]) -> bool:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(schema).validate(value)
    return True


def make(chance: random.Random, depth: int = 3) -> dict[str, Any]:
    """Return a schema; of those without an end (strings, arrays, free objects) as many as of the others."""
    kinds = ["string", "bounded", "pattern", "integer", "number", "boolean", "null", "enum", "const"]
    if depth > 0:
        kinds += ["object", "array", "any", "object", "array", "free", "ref"]
    return MAKERS[chance.choice(kinds)](chance, depth - 1)


def _object(chance, depth):
    names = chance.sample(WORDS, chance.randint(0, 4))
    return {
        "type": "object",
        "properties": {name: make(chance, depth) for name in names},
        "required": [name for name in names if chance.random() < 0.6],
        "additionalProperties": chance.choice((False, False, {"type": "integer"})),
    }


def _array(chance, depth):
    made = {"type": "array", "items": make(chance, depth)}
    if chance.random() < 0.5:
        made["minItems"] = chance.randint(0, 3)
    if chance.random() < 0.5:
        made["maxItems"] = chance.randint(3, 6)
    return made


def _string(chance, depth):
    low = chance.randint(0, 6)
    return {"type": "string", "minLength": low, "maxLength": low + chance.randint(0, 20)}


def _integer(chance, depth):
    low = chance.randint(-1000, 1000)
    return chance.choice(({"type": "integer"}, {"type": "integer", "minimum": low, "maximum": low + 77}))


def _ref(chance, depth):
    node = {
        "type": "object",
        "properties": {"value": make(chance, 0), "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    return node["properties"]["value"] if depth < 2 else node


MAKERS = {
    "string": lambda chance, depth: {"type": "string"},
    "bounded": _string,
    "pattern": lambda chance, depth: {
        "type": "string",
        "pattern": chance.choice(("^[A-Z]{2}-[0-9]{3}$", "^[a-f]+$", "^(yes|no)$", "^[0-9]{4}-[0-9]{2}$")),
    },
    "integer": _integer,
    "number": lambda chance, depth: {"type": "number"},
    "boolean": lambda chance, depth: {"type": "boolean"},
    "null": lambda chance, depth: {"type": "null"},
    "enum": lambda chance, depth: {"enum": chance.sample([*WORDS, 1, None, True, 2.5], 3)},
    "const": lambda chance, depth: {"const": chance.choice(WORDS)},
    "object": _object,
    "array": _array,
    "any": lambda chance, depth: {"anyOf": [make(chance, depth) for _ in range(chance.randint(1, 3))]},
    "free": lambda chance, depth: {"type": "object"},
    "ref": _ref,
}

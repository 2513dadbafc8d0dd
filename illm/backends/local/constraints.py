"""What a client wants the text to be, as a grammar: each kind becomes a rule called `answer`."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from illm.backends.local.answers.layout import parameters
from illm.backends.local.schema_errors import BLANKS, llguidance
from illm.core.requests import Chat, Completion, Constraint, Tool
from illm.errors import GatewayError, Kind

if TYPE_CHECKING:
    from illm.backends.local.grammar import CompiledGrammar, GrammarCompiler

MOST_CHOICES = 4096
MOST_AT_ONCE = 8
"""Schemas in one `allOf`."""


def constraint_of(request: Chat | Completion) -> Constraint | None:
    """Return the one constraint of a request.

    Raises:
        GatewayError: `UNSUPPORTED_PARAMETER` for a kind that is not known here; `INVALID_REQUEST` for more than one, or
            one that is none.
    """
    if not request.constraints:
        return None
    constraint, *others = request.constraints
    if others:
        names = " and ".join(f"'{one.param}'" for one in request.constraints)
        raise _bad(others[0].param, f"{names} say what the text must be; one of them can be enforced.")
    if constraint.kind not in _RULES and constraint.kind != "grammar":
        raise GatewayError(
            Kind.UNSUPPORTED_PARAMETER,
            f"{constraint.param}: '{constraint.kind[:64]}' is not known here.",
            param=constraint.param[:100],
        )
    return constraint


def compiled(
    grammars: "GrammarCompiler", constraint: Constraint, around: Callable[[str], str] | None = None
) -> "CompiledGrammar":
    """Compile a constraint that `constraint_of` has looked at.

    Args:
        grammars: the model's.
        constraint: what the text has to be.
        around: makes a whole grammar of a rule called `answer`; by default the answer is all there is.

    Raises:
        GatewayError: `INVALID_REQUEST`; `param` says where, down to the part of a schema.
    """
    content, param = constraint.content, constraint.param
    if constraint.kind == "grammar":
        return grammars.grammar(_text(content, param), param)
    whole = around or _alone
    if constraint.kind == "json_schema":
        content = _schema(content, param)
        return grammars.lark(whole(f"answer: {json_term(content)}"), param, schema=content)
    return grammars.lark(whole(f"answer: {_RULES[constraint.kind](content, param)}"), param)


def refuse_schemas(grammars: "GrammarCompiler", tools: Sequence[Tool]) -> None:
    """Find the tool whose parameters cannot be followed, where a grammar of several could not be compiled.

    Raises:
        GatewayError: `INVALID_REQUEST`; `param` says where, down to the part of the schema.
    """
    for at, tool in enumerate(tools):
        schema = parameters(tool)
        grammars.lark(_alone(f"answer: {json_term(schema)}"), f"tools[{at}].function.parameters", schema=schema)


def json_term(schema: Mapping[str, Any]) -> str:
    """Return a JSON schema as a term of a Lark grammar."""
    return f"%json {json.dumps({**schema, 'x-guidance': BLANKS})}"


def _alone(rules: str) -> str:
    return f"start: answer\n{rules}\n"


def _object(content: object, param: str) -> str:
    if content is not None and content is not True:
        raise _bad(param, "expected boolean")
    return json_term({"type": "object"})


def _regex(content: object, param: str) -> str:
    return f"/{_slashed(_text(content, param))}/"


def _choice(content: object, param: str) -> str:
    if not isinstance(content, Sequence) or isinstance(content, str) or not content:
        raise _bad(param, "expected an array of texts to choose from")
    if len(content) > MOST_CHOICES:
        raise _bad(param, f"at most {MOST_CHOICES} texts to choose from are possible")
    for at, text in enumerate(content):
        if not isinstance(text, str) or not text:
            raise _bad(f"{param}[{at}]", "expected a text that is not empty")
    return " | ".join(json.dumps(text) for text in content)


_RULES: dict[str, Callable[[Any, str], str]] = {
    "json_object": _object,
    "json_schema": lambda content, param: json_term(_schema(content, param)),
    "regex": _regex,
    "choice": _choice,
}


def _schema(content: object, param: str) -> Mapping[str, Any]:
    if isinstance(content, str):  # as vLLM and TGI take it too
        try:
            content = json.loads(content)
        except ValueError as error:
            raise _bad(param, f"it is not JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise _bad(param, "expected a JSON schema, an object")
    _refuse_many_at_once(content, param)
    return content


def _refuse_many_at_once(schema: object, param: str) -> None:
    """Refuse long lists of `allOf`: intersecting dozens of patterns takes llguidance for ever, whatever its limits."""
    if isinstance(schema, Mapping):
        for name, part in schema.items():
            if name == "allOf" and isinstance(part, list) and len(part) > MOST_AT_ONCE:
                raise _bad(f"{param}.allOf", f"at most {MOST_AT_ONCE} schemas at once are possible")
            _refuse_many_at_once(part, f"{param}.{name}")
    elif isinstance(schema, list):
        for at, part in enumerate(schema):
            _refuse_many_at_once(part, f"{param}[{at}]")


def _text(content: object, param: str) -> str:
    if not isinstance(content, str) or not content:
        raise _bad(param, "expected text")
    return content


def _slashed(expression: str) -> str:
    """Return a regular expression as it may stand between slashes, whatever is in it."""
    return str(llguidance().regex_to_lark(expression))


def _bad(param: str, reason: str) -> GatewayError:
    return GatewayError(Kind.INVALID_REQUEST, f"{param}: {reason}", param=param[:500])

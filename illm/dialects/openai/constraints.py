"""Every field by which a client may say what the text of an answer has to be: OpenAI's, vLLM's and SGLang's.

Nothing is judged here.  A server that speaks the dialect gets the fields as they came; who has to enforce them looks
at what they became.
"""

from illm.core.requests import Constraint
from illm.dialects.openai.sampling import GenerateWire
from illm.dialects.openai.tools import WireFormat

_WITHOUT_MEANING = frozenset({"disable_any_whitespace"})
"""Options of vLLM's that no constraint of ours needs: free white space is never allowed."""


def to_constraints(wire: GenerateWire, form: WireFormat | None) -> tuple[Constraint, ...]:
    """Return what the text has to be, from whichever field said so."""
    found = [] if form is None or form.type == "text" else [_of_format(form)]
    for name, value in (wire.structured_outputs or {}).items():
        if value is not None and value is not False and name not in _WITHOUT_MEANING:
            found.append(Constraint(_KINDS.get(name, name), value, f"structured_outputs.{name}"))
    found += [
        Constraint(kind, value, name)
        for name, kind, value in (
            ("regex", "regex", wire.regex),
            ("ebnf", "grammar", wire.ebnf),
            ("grammar", "grammar", wire.grammar),
        )
        if value is not None
    ]
    return tuple(found)


_KINDS = {"json": "json_schema"}


def _of_format(form: WireFormat) -> Constraint:
    if form.type != "json_schema":
        param = "response_format" if form.type == "json_object" else "response_format.type"
        return Constraint(form.type, None, param)
    schema = None if form.json_schema is None else form.json_schema.schema
    if schema is None:  # a name alone
        return Constraint("json_object", None, "response_format")
    return Constraint("json_schema", schema, "response_format.json_schema.schema")

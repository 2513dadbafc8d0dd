"""What the model behind a test server says, before a server writes it in its own shape."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

JSON = Mapping[str, Any]


@dataclass
class Says:
    """What the model says to the next request, and what goes wrong meanwhile.

    Attributes:
        tokens: the text.
        reasoning: what goes before it, told apart by the server's reasoning parser.
        calls: tool calls, name and pieces of the arguments, for requests that have tools and let it.
        language: what a recording is said to be in.
        error_after, cut_after: events of a stream, after which an error comes, or just the end.
        stall_after: events, after which nothing comes until the client goes; without a stream nothing comes at all.
    """

    tokens: Sequence[str] = (" Hello", " the", "re", "!")
    reasoning: Sequence[str] = ()
    calls: Sequence[tuple[str, Sequence[str]]] = ()
    language: str = "en"
    error_after: int | None = None
    cut_after: int | None = None
    stall_after: int | None = None


@dataclass(frozen=True)
class Choice:
    """One choice, as it is said.

    Attributes:
        index: among the choices.
        reasoning, tokens: pieces.
        calls: as in `Says`.
        reason: `stop`, `length` or `tool_calls`.
        matched: the stop string that ended it.
    """

    index: int
    reasoning: Sequence[str]
    tokens: Sequence[str]
    calls: Sequence[tuple[str, Sequence[str]]]
    reason: str
    matched: str | None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.tokens)

    @property
    def count(self) -> int:
        """Tokens; each piece of a call is one."""
        return len(self.reasoning) + len(self.tokens) + sum(1 + len(pieces) for _, pieces in self.calls)


def say(says: Says, body: JSON, index: int = 0) -> Choice:
    """Decide what a choice says, given a checked request."""
    calls = _calls(says, body)
    if calls:
        return Choice(index, says.reasoning, (), calls, "tool_calls", None)
    wanted = _constrained(body)
    tokens = list(says.tokens if wanted is None else [wanted[at : at + 4] for at in range(0, len(wanted), 4)])
    reason, matched = "stop", None
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None and limit < len(tokens):
        tokens, reason = tokens[:limit], "length"
    stops = body.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        if (at := "".join(tokens).find(stop)) >= 0:
            tokens, reason, matched = _cut(tokens, at), "stop", stop
    return Choice(index, says.reasoning, tokens, (), reason, matched)


def _calls(says: Says, body: JSON) -> Sequence[tuple[str, Sequence[str]]]:
    choice = body.get("tool_choice")
    if not body.get("tools") or choice == "none":
        return ()
    calls = says.calls
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        calls = [call for call in calls if call[0] == name] or [(name, ("{}",))]
    elif choice == "required":
        calls = calls or [(body["tools"][0]["function"]["name"], ("{}",))]
    return calls[:1] if body.get("parallel_tool_calls") is False else calls


def _cut(tokens: Sequence[str], at: int) -> list[str]:
    kept: list[str] = []
    for token in tokens:
        if at <= 0:
            break
        kept.append(token[:at])
        at -= len(token)
    return kept


def _constrained(body: JSON) -> str | None:
    """Return the text that a constraint leaves, if there is one."""
    given = body.get("response_format") or {}
    structured = body.get("structured_outputs") or {}
    if given.get("type") == "json_schema":
        return json.dumps(example(given["json_schema"]["schema"]))
    if given.get("type") == "json_object" or structured.get("json_object"):
        return "{}"
    if "choice" in structured:
        return str(structured["choice"][0])
    if isinstance(structured.get("json"), dict):
        return json.dumps(example(structured["json"]))
    regex = structured.get("regex") or body.get("regex")
    return str(regex) if regex and str(regex).isalnum() else None


def example(schema: JSON) -> Any:
    """Return something small that a schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type", "object"):
        case "object":
            return {name: example(one) for name, one in schema.get("properties", {}).items()}
        case "array":
            return []
        case kind:
            return {"string": "s", "integer": 1, "number": 0.5, "boolean": True}.get(kind)


@dataclass
class Logprobs:
    """The log-probabilities of pieces, in the shapes of both endpoints.

    Attributes:
        top: alternatives to give with each.
        offsets: whether the server counts the characters before a token (SGLang says -1).
    """

    top: int
    offsets: bool = True
    _before: int = field(default=0, init=False)

    def chat(self, tokens: Sequence[str]) -> JSON:
        """Return them as a chat has them."""
        return {"content": [{**_one(token, -0.5), "top_logprobs": self._top(token)} for token in tokens]}

    def completion(self, tokens: Sequence[str]) -> JSON:
        """Return them as a completion has them; `top` counts the token itself."""
        found: list[int] = []
        for token in tokens:
            found.append(self._before if self.offsets else -1)
            self._before += len(token)
        tops = [{one["token"]: one["logprob"] for one in self._top(token)} for token in tokens]
        return {
            "text_offset": found,
            "token_logprobs": [-0.5] * len(tokens),
            "tokens": list(tokens),
            "top_logprobs": tops,
        }

    def _top(self, token: str) -> Sequence[JSON]:
        return [_one(token, -0.5), *(_one(f" other{at}", -2.0 - at) for at in range(1, self.top))][: self.top]


def _one(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

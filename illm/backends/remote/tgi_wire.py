"""The shapes of TGI's answers, as much of them as is read.  What is null or missing has a default; what is of another
type is nonsense, and msgspec says so.
"""

from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from illm.backends.remote.upstream_errors import nonsense

_Wire = TypeVar("_Wire", bound=Struct)


class Fallible(Struct, kw_only=True):
    """Anything may turn out to be an error: a string with its type beside it, an object, or flat."""

    error: Any = None
    error_type: str | None = None
    message: Any = None


class Token(Struct):
    """One token of the native endpoints."""

    id: int
    text: str
    logprob: float | None = None
    special: bool = False


class Details(Struct, kw_only=True):
    """What `details` adds; in a stream without the tokens, and there alone with `input_length`."""

    finish_reason: str
    generated_tokens: int = 0
    input_length: int | None = None
    tokens: list[Token] = field(default_factory=list)
    top_tokens: list[list[Token]] | None = None


class Generated(Fallible, kw_only=True):
    """The answer of `/generate`."""

    generated_text: str | None = None
    details: Details | None = None


class GeneratedEvent(Generated, kw_only=True):
    """One event of `/generate_stream`; the last one has `generated_text`."""

    token: Token | None = None
    top_tokens: list[Token] | None = None


class Function(Struct):
    """A piece of a call, or all of it; some versions send the arguments as an object."""

    name: str | None = None
    arguments: Any = None


class Call(Struct):
    """A tool call.  Its `id` is a small number that comes back in every turn, so nobody reads it."""

    function: Function
    index: int = 0


class Said(Struct):
    """A message or a delta."""

    content: str | None = None
    tool_calls: list[Call] | Call | None = None

    @property
    def calls(self) -> list[Call]:
        """The calls; older versions send one of them without a list."""
        return [self.tool_calls] if isinstance(self.tool_calls, Call) else self.tool_calls or []


class Scored(Struct):
    """One token of a chat's log-probabilities."""

    token: str
    logprob: float | None = None
    top_logprobs: list["Scored"] | None = None


class Scores(Struct):
    """A choice's log-probabilities."""

    content: list[Scored] | None = None


class Choice(Struct):
    """A choice of a chat; `message` in a whole answer, `delta` in a stream."""

    index: int = 0
    message: Said | None = None
    delta: Said | None = None
    logprobs: Scores | None = None
    finish_reason: str | None = None


class Counts(Struct):
    """Usage."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatAnswer(Fallible, kw_only=True):
    """A chat's answer, or one event of it."""

    choices: list[Choice] = field(default_factory=list)
    usage: Counts | None = None


def decode(data: bytes, wire: type[_Wire], framework: str = "tgi") -> _Wire:
    """Decode JSON.

    Raises:
        GatewayError: it is none, or of another shape.
    """
    try:
        return msgspec.json.decode(data, type=wire)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise nonsense(framework, "answered something that makes no sense") from None

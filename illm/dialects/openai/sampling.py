"""The fields that chat and completions share: their ranges, and what becomes of them.

Ranges are OpenAI's where OpenAI has the field.  Where values mean "off" or "greedy" they are made canonical here, so
that a backend meets one spelling.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct

from illm.core.requests import Sampling
from illm.dialects.openai.json_body import invalid

MAX_INT32 = 2**31 - 1

Name = Annotated[str, Meta(min_length=1, max_length=512)]
Tokens = Annotated[int, Meta(ge=0, le=MAX_INT32)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenKey = Annotated[str, Meta(pattern=r"^[0-9]{1,10}$")]
StopString = Annotated[str, Meta(min_length=1, max_length=1024)]


class StreamOptions(Struct):
    """What to send beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerateWire(Struct, kw_only=True):
    """The JSON fields of a request that generates text; null never reaches it."""

    model: Name | None = None
    framework: Name | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MAX_INT32)] | None = None
    # A penalty near zero divides by near zero: the logits overflow to infinity, the probabilities to NaN.
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=4)] = ""
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] = 1
    ignore_eos: bool = False
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenKey, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    structured_outputs: dict[str, Any] | None = None
    regex: Any = None
    ebnf: Any = None
    grammar: Any = None
    typical_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    min_tokens: Tokens = 0
    stop_token_ids: Annotated[list[Tokens], Meta(max_length=256)] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=MAX_INT32)] = 0


def to_sampling(wire: GenerateWire, *, may_be_empty: bool = False, logprobs: int | None = None) -> Sampling:
    """Make the canonical sampling parameters.

    Args:
        wire: the checked fields.
        may_be_empty: whether asking for no token at all makes sense (an echoed prompt).
        logprobs: how many alternatives to each token; the two endpoints spell it differently.

    Returns:
        `max_completion_tokens` has won over `max_tokens`; `top_p` 0 has become greedy (temperature 0, `top_p` 1);
        `top_k` is 0 where -1 or 0 switched it off; `stop` is a tuple.

    Raises:
        GatewayError: `max_tokens` is 0 and may not be.
    """
    limit = wire.max_tokens if wire.max_completion_tokens is None else wire.max_completion_tokens
    if limit == 0 and not may_be_empty:
        name = "max_tokens" if wire.max_completion_tokens is None else "max_completion_tokens"
        raise invalid("expected integer >= 1", param=name)
    greedy = wire.top_p == 0
    return Sampling(
        max_tokens=limit,
        temperature=0.0 if greedy else wire.temperature,
        top_p=1.0 if greedy else wire.top_p,
        top_k=None if wire.top_k is None else max(wire.top_k, 0),
        repetition_penalty=wire.repetition_penalty,
        stop=((wire.stop,) if wire.stop else ()) if isinstance(wire.stop, str) else tuple(wire.stop),
        seed=wire.seed,
        n=wire.n,
        ignore_eos=wire.ignore_eos,
        min_p=wire.min_p,
        presence_penalty=wire.presence_penalty,
        frequency_penalty=wire.frequency_penalty,
        logit_bias=wire.logit_bias or None,
        logprobs=logprobs,
        typical_p=wire.typical_p,
        best_of=None if wire.best_of == wire.n else wire.best_of,
        min_tokens=wire.min_tokens,
        stop_token_ids=tuple(wire.stop_token_ids),
    )


def wants_usage(wire: GenerateWire) -> bool:
    """Say whether the stream should end with a usage chunk.

    Raises:
        GatewayError: there are `stream_options` without a stream, as OpenAI refuses them.
    """
    if wire.stream_options is None:
        return False
    if not wire.stream:
        raise invalid("only allowed when 'stream' is true", param="stream_options")
    return bool(wire.stream_options.include_usage)

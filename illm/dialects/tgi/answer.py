"""The answer of `/generate`: one JSON object, and counts that TGI sends in the head alone."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from illm.core.events import Delta, Done, Event, Finish, Usage
from illm.dialects.tgi.requests import Generation
from illm.dialects.tgi.tokens import Choice, raw, token_object, top_tokens
from illm.errors import GatewayError, Kind

JSON = dict[str, Any]


class TokenCounts(NamedTuple):
    """How many tokens the prompt and the shown choice have."""

    prompt: int
    generated: int

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Where a client without `details` finds them."""
        return [(b"x-prompt-tokens", b"%d" % self.prompt), (b"x-generated-tokens", b"%d" % self.generated)]


def generated_body(generation: Generation, events: Iterable[Event]) -> tuple[bytes, TokenCounts]:
    """Encode the answer.

    Args:
        generation: what was asked.
        events: everything that a backend answered, `Done` last.

    Raises:
        GatewayError: `BACKEND_DIED` where a choice has no end.
    """
    choices = [Choice() for _ in range(generation.completion.sampling.n)]
    usage = Usage()
    for event in events:
        match event:
            case Delta(index=index):
                choices[index].feed(event)
            case Finish(index=index):
                choices[index].finish = event
            case Done(usage=usage):
                pass
            case _:
                raise TypeError(f"an answer of text cannot hold {type(event).__name__}")
    if any(choice.finish is None for choice in choices):
        raise GatewayError(Kind.BACKEND_DIED, "The backend ended before its answer was complete")
    best, *others = sorted(choices, key=lambda choice: -choice.mean_logprob)
    counts = TokenCounts(usage.prompt_tokens, best.count if others else usage.completion_tokens)
    answer: JSON = {"generated_text": _text(generation, best)}
    if generation.details:
        answer["details"] = _details(generation, best, counts.generated)
        if others:
            answer["details"]["best_of_sequences"] = [
                {"generated_text": _text(generation, other), **_details(generation, other, other.count)}
                for other in others
            ]
    return orjson.dumps(answer), counts


def _text(generation: Generation, choice: Choice) -> orjson.Fragment:
    return raw((generation.prompt if generation.full_text else "") + choice.generated)


def _details(generation: Generation, choice: Choice, count: int) -> JSON:
    details: JSON = {
        "finish_reason": choice.reason,
        "generated_tokens": count,
        "seed": generation.seed,
        "prefill": [],
        "tokens": [token_object(token) for token in choice.tokens],
    }
    if generation.top_tokens:
        details["top_tokens"] = [top_tokens(token, generation.top_tokens) for token in choice.tokens]
    return details

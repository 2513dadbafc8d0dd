"""`POST /v1/completions`: the request."""

from typing import Annotated, Any

from msgspec import Meta

from illm.core.requests import Completion, Prompt
from illm.dialects.openai.json_body import convert, invalid
from illm.dialects.openai.sampling import MAX_INT32, GenerateWire, to_sampling, wants_usage

MAX_PROMPTS = 128
MAX_CHOICES = 256
"""Prompts times `n`."""

TokenId = Annotated[int, Meta(ge=0, le=MAX_INT32)]
WirePrompts = str | list[str | TokenId | list[TokenId]]
"""A string, strings, token ids, or lists of token ids; msgspec cannot tell the lists apart, `to_prompts` does."""


class CompletionWire(GenerateWire, kw_only=True):
    """The JSON fields of a completion request."""

    prompt: WirePrompts
    echo: bool = False


def parse_completion(body: dict[str, Any]) -> Completion:
    """Parse a completion request.

    Args:
        body: the decoded JSON object; it stays with the request, so nobody should change it afterwards.

    Returns:
        The request.  `sampling.max_tokens` stays `None` where the client gave none: OpenAI's default of
        `DEFAULT_MAX_TOKENS` comes after the configured one.

    Raises:
        GatewayError: a field is wrong; `param` names it.
    """
    wire = convert(body, CompletionWire)
    prompts = to_prompts(wire.prompt, name="prompt", most=MAX_PROMPTS)
    if len(prompts) * wire.n > MAX_CHOICES:
        raise invalid(f"prompts times n must be at most {MAX_CHOICES}", param="n")
    return Completion(
        prompts=prompts,
        sampling=to_sampling(wire, may_be_empty=wire.echo),
        echo=wire.echo,
        model=wire.model,
        framework=wire.framework,
        stream=wire.stream,
        include_usage=wants_usage(wire),
        body=body,
    )


DEFAULT_MAX_TOKENS = 16
"""OpenAI's limit for a completion that names none."""


def to_prompts(wire: WirePrompts, *, name: str, most: int) -> tuple[Prompt, ...]:
    """Tell the four shapes of a prompt apart: a flat list of token ids is *one* prompt.

    Args:
        wire: what came.
        name: the field, for errors.
        most: how many prompts there may be.

    Raises:
        GatewayError: the list is empty, too long, or mixes shapes, or a list of token ids is empty.
    """
    if isinstance(wire, str):
        return (wire,)
    if not wire:
        raise invalid("expected at least one item", param=name)
    shapes = {type(item) for item in wire}
    if len(shapes) > 1:
        raise invalid("expected only strings, only token ids, or only lists of token ids, not a mix", param=name)
    if shapes == {int}:
        return (tuple(item for item in wire if isinstance(item, int)),)
    if len(wire) > most:
        raise invalid(f"expected at most {most} items", param=name)
    prompts: list[Prompt] = []
    for at, item in enumerate(wire):
        if item == []:
            raise invalid("expected at least one token id", param=f"{name}[{at}]")
        prompts.append(tuple(item) if isinstance(item, list) else str(item))
    return tuple(prompts)

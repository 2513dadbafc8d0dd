"""The four shapes of a raw prompt, which completions and embeddings share."""

from typing import Annotated

from msgspec import Meta

from illm.core.requests import WHOLE, Prompt
from illm.dialects.openai.json_body import invalid
from illm.dialects.openai.sampling import MAX_INT32

TokenId = Annotated[int, Meta(ge=0, le=MAX_INT32)]
WirePrompts = str | list[str | TokenId | list[TokenId]]
"""A string, strings, token ids, or lists of token ids; msgspec cannot tell the lists apart, `to_prompts` does."""

CutTo = Annotated[int, Meta(ge=-1, le=MAX_INT32)]
"""How many tokens to cut to; -1 for as many as the model takes."""


def to_cut(truncate: bool, tokens: int | None) -> int | None:
    """Return what `Embed.cut` should be: vLLM's word (a number of tokens) says more than the plain switch.

    Raises:
        GatewayError: a cut to nothing.
    """
    if tokens == 0:
        raise invalid("must be -1 or at least 1", param="truncate_prompt_tokens")
    return tokens if tokens is not None else WHOLE if truncate else None


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

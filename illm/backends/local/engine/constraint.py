"""What a constraint is to the engine: which tokens may come next, and when the text is complete.

Whatever enforces a grammar hides behind these two protocols; the engine knows no grammar engine.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy
import torch


class Constraint(Protocol):
    """One sequence's way through a grammar.

    `finished` says that nothing may follow; `cut`, that the way there was not the model's choice: few tokens were left.
    """

    finished: bool
    cut: bool

    def mask(self) -> bytes:
        """Return which tokens may come next, one bit a token, lowest bit first; at least one is set."""

    def take(self, token: int, left: int) -> int:
        """Go on by one token.

        Args:
            token: what was sampled under the mask.
            left: how many tokens may follow it.

        Returns:
            the token to go on with: the sampled one, unless the text could not be completed behind it any more;
            `NO_TOKEN` where the text ends and no token says so.
        """


class Grammar(Protocol):
    """A compiled grammar; it belongs to no sequence, and any thread may ask it."""

    def start(self, eos: Collection[int]) -> Constraint:
        """Return a way through it from the beginning; of the tokens that end a text only `eos` may be chosen."""


class Constrained(Protocol):
    """What the sampler has to know of a sequence here."""

    @property
    def constraint(self) -> Constraint | None:
        """Its constraint, if any."""


def allowed(sequences: Sequence[Constrained], vocabulary: int, device: torch.device) -> list[torch.Tensor | None]:
    """Return which tokens each sequence may have next.

    Args:
        sequences: those that sample now.
        vocabulary: how many logits a row has.
        device: where they are.

    Returns:
        for each its mask, `(vocabulary,)` bool, or None for any token; an empty list where that holds for all.
    """
    if all(sequence.constraint is None for sequence in sequences):
        return []
    return [None if one.constraint is None else _mask(one.constraint, vocabulary).to(device) for one in sequences]


def _mask(constraint: Constraint, vocabulary: int) -> torch.Tensor:
    packed = numpy.frombuffer(constraint.mask(), numpy.uint8)
    # What the grammar engine does not know is no token: some models have more logits than tokens.
    bits = numpy.unpackbits(packed, count=vocabulary, bitorder="little")
    return torch.from_numpy(bits.view(numpy.bool_))

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
            the token to go on with: the sampled one, unless the text could not be completed behind it any more.
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


def constrain(logits: torch.Tensor, sequences: Sequence[Constrained]) -> torch.Tensor:
    """Put out of reach what the constraints of the sequences do not allow.

    Args:
        logits: `(len(sequences), vocabulary)`, any floating type; not changed.
        sequences: whose they are.

    Returns:
        the same tensor where no sequence has a constraint, else a copy; rows without one keep their values.
    """
    rows = [row for row, sequence in enumerate(sequences) if sequence.constraint is not None]
    if not rows:
        return logits
    vocabulary = logits.shape[1]
    out = logits.clone()
    for row in rows:
        constraint = sequences[row].constraint
        assert constraint is not None  # noqa: S101 - chosen so above
        bits = numpy.unpackbits(numpy.frombuffer(constraint.mask(), numpy.uint8), bitorder="little")[:vocabulary]
        barred = torch.from_numpy(bits == 0).to(logits.device)
        out[row, : len(bits)].masked_fill_(barred, -torch.inf)
        out[row, len(bits) :] = -torch.inf
    return out

"""What encoders have in common: a call's texts become rows, the rows pass through the model with other calls' rows, and
what comes out becomes the call's answer.

Short calls are tokenised where they arrive.  Long ones are tokenised a piece at a time, between passes, so that they
hold up neither the tokenizer nor the model; and no pass is run for a call before all of its rows are known to fit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from illm.backends.local.tokenising import Item, Name, Row, Tokeniser
from illm.backends.local.work import Answered
from illm.core.events import Event
from illm.core.requests import Request

Outcome: TypeAlias = NDArray[np.float32]

PIECE_ITEMS = 256
PIECE_CHARACTERS = 1 << 16
"""A piece takes the tokenizer some milliseconds.  A single text may be longer."""


@dataclass(slots=True)
class Task:
    """One call.

    Args:
        items: what to encode.
        name: what an error calls each of them.
        room: see `Tokeniser.rows`.
        finish: makes the answer of the rows' outcomes, in the order of the items, and of how many tokens they had.
    """

    items: Sequence[Item]
    name: Name
    room: int | None
    finish: Callable[[Sequence[Outcome], int], tuple[Event, ...]]
    rows: list[Row] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether every item has its row."""
        return len(self.rows) == len(self.items)

    @property
    def tokens(self) -> int:
        """How many tokens the rows have, special ones included."""
        return sum(row.shape[1] for row in self.rows)

    def tokenise(self, tokeniser: Tokeniser) -> None:
        """Make the rows of the next piece.  Raises as `Tokeniser.rows`."""
        start = len(self.rows)
        stop, size = start, 0
        while stop < len(self.items) and stop - start < PIECE_ITEMS and (stop == start or size < PIECE_CHARACTERS):
            size += _size(self.items[stop])
            stop += 1
        self.rows += tokeniser.rows(self.items[start:stop], lambda at: self.name(start + at), room=self.room)


class Encoder(Protocol):
    """A model that reads rows and makes something of each.

    Attributes:
        tokeniser: makes its rows.
        batch_tokens: the size of a pass in tokens, padding included.
    """

    tokeniser: Tokeniser
    batch_tokens: int

    def task(self, request: Request) -> Task | Answered:
        """Check a request and say what it amounts to; from any thread.  Raises `GatewayError`."""

    def run(self, rows: Sequence[Row]) -> Outcome:
        """Run one pass of the model; one outcome a row."""


def _size(item: Item) -> int:
    """Characters of a text or a pair of them; token ids cost no more."""
    return len(item) if isinstance(item, str) else sum(len(part) if isinstance(part, str) else 1 for part in item)

"""Prompts that bring pictures along, and what the model is given for them.

A picture stands in a prompt as a run of placeholder tokens.  Their embeddings are rows that a vision model makes of
the picture, and in some families those tokens stand in a grid: their positions have three axes, and the text after
them goes on from the largest one.

Rows are made when the first chunk that needs them is computed.  Making them costs about what their number says, and a
chunk is bounded, so one step makes at most the pictures that begin in its chunk: what runs beside waits for no more.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import torch

from illm.backends.local.engine.scheduler import Piece


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Picture:
    """A picture as a vision model takes it, or a part of one that it looks at by itself.

    Args:
        key: equal for equal pictures.
        inputs: what the vision model is given, on the CPU.
        rows: how many tokens of the prompt it stands for.
    """

    key: bytes
    inputs: Mapping[str, torch.Tensor] = field(repr=False)
    rows: int


class PictureError(Exception):
    """A picture of this sequence could not be turned into rows; the others have nothing to do with it."""

    def __init__(self, id: int) -> None:  # noqa: A002
        super().__init__(id)
        self.id = id


class Tower(Protocol):
    """What turns pictures into rows of embeddings."""

    def rows(self, picture: Picture) -> torch.Tensor:
        """Return `(picture.rows, hidden)`, on the model's device.  Called in the engine's thread.

        Raises:
            ValueError: the model makes another number of rows of it.
        """


class Illustrated(list[int]):
    """Token ids of a prompt, some of which stand for pictures.

    Args:
        ids: the tokens, placeholders included.
        placeholder: the id that stands for a row of a picture.
        pictures: in the prompt's order; their rows are as many as there are placeholders.
        tower: makes their rows.
        positions: `(3, len(ids))` where tokens stand in a grid, else None.
    """

    def __init__(
        self,
        ids: Sequence[int],
        *,
        placeholder: int,
        pictures: Sequence[Picture],
        tower: Tower,
        positions: torch.Tensor | None = None,
    ) -> None:
        super().__init__(ids)
        self.pictures = tuple(pictures)
        self._places = [at for at, token in enumerate(ids) if token == placeholder]
        self._ends = list(accumulate(picture.rows for picture in pictures))
        if (self._ends[-1:] or [0]) != [len(self._places)]:
            raise ValueError(f"{len(self._places)} placeholders for pictures of {self._ends} rows")
        self._tower = tower
        self._positions = positions
        self._behind = 0 if positions is None else int(positions.max()) + 1 - len(ids)

    @property
    def salt(self) -> bytes:
        """What tells this prompt from others of the same token ids."""
        return b"".join(picture.key for picture in self.pictures)

    def rows(self, start: int, stop: int) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield which of the tokens `start` to `stop` are rows of a picture, counted from `start`, and the rows."""
        first, last = bisect_left(self._places, start), bisect_left(self._places, stop)
        if first == last:
            return
        begin = 0
        for picture, end in zip(self.pictures, self._ends, strict=True):
            low, high = max(begin, first), min(end, last)
            if low < high:
                places = [place - start for place in self._places[low:high]]
                yield places, self._tower.rows(picture)[low - begin : high - begin]
            begin = end

    def positions(self, start: int, stop: int) -> torch.Tensor | None:
        """Return `(3, stop - start)` positions of prompt and answer, or None where they are plain."""
        if self._positions is None:
            return None
        known = self._positions[:, start:stop]
        beyond = torch.arange(max(start, len(self)), max(stop, len(self))) + self._behind
        return torch.cat((known, beyond.expand(3, -1)), dim=1)


def model_inputs(model: Any, pieces: Sequence[Piece], tokens: list[int], positions: list[int]) -> dict[str, Any]:
    """Return what the model is given for packed tokens: ids, or embeddings where some are rows of a picture.

    Args:
        model: the causal language model.
        pieces: in packed order.
        tokens: theirs.
        positions: of the tokens, each in its sequence.

    Raises:
        PictureError: of the first sequence whose picture cannot be used.
    """
    device = model.device
    ids = torch.tensor([tokens], device=device)
    places = torch.tensor([positions])
    embeddings: torch.Tensor | None = None
    at = 0
    for sequence, start, size, _ in pieces:
        prompt = sequence.request.prompt
        if isinstance(prompt, Illustrated):
            grid = prompt.positions(start, start + size)
            if grid is not None:
                if places.ndim == 2:
                    places = places.repeat(3, 1, 1)
                places[:, 0, at : at + size] = grid
            try:
                seen = list(prompt.rows(start, start + size))
            except ValueError as error:
                raise PictureError(sequence.request.id) from error
            for where, rows in seen:
                if embeddings is None:
                    embeddings = model.get_input_embeddings()(ids)
                embeddings[0, torch.tensor(where, device=device) + at] = rows.to(embeddings.dtype)
        at += size
    given = {"input_ids": ids} if embeddings is None else {"inputs_embeds": embeddings}
    return {**given, "position_ids": places.to(device)}

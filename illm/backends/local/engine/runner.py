"""One forward: pieces in, logits of the rows that sample out."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from illm.backends.local.engine.attention import PackedStep, attending
from illm.backends.local.engine.illustrated import Illustrated, model_inputs
from illm.backends.local.engine.kv import KVSlab
from illm.backends.local.engine.scheduler import Copy, Piece
from illm.backends.local.engine.scores import score_prompt
from illm.backends.local.engine.sequence import LiveSequence


class Forward(Protocol):
    """What the engine asks of whatever computes."""

    def run(self, pieces: Sequence[Piece]) -> tuple[list[LiveSequence], torch.Tensor]:
        """See `Runner.run`."""

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy keys and values, in this order."""


class Written(Protocol):
    """A forward that is written out for a family of models, instead of going through their modules."""

    def takes(self, tokens: int) -> bool:
        """Return whether it is for that many tokens."""

    def logits(
        self, step: PackedStep, tokens: Sequence[int], positions: list[int], rows: Sequence[int]
    ) -> torch.Tensor:
        """Compute tokens in packed order.

        Args:
            step: the attention.
            tokens: their ids.
            positions: their places in their sequences.
            rows: which of them logits are wanted of.

        Returns:
            `(len(rows), vocabulary)`.
        """


class Runner:
    """A model and its KV memory.

    Args:
        model: a causal language model whose attention function is ours.
        kv: sized for it.

    Attributes:
        model: as given.
        written: shorter ways than the model's own; the first that takes a forward computes it.
    """

    written: Sequence[Written] = ()

    def __init__(self, model: Any, kv: KVSlab) -> None:
        self.model = model
        self._kv = kv

    def copy(self, copies: Sequence[Copy]) -> None:
        """See `Forward`."""
        for copy in copies:
            self._kv.copy(*copy)

    def run(self, pieces: Sequence[Piece]) -> tuple[list[LiveSequence], torch.Tensor]:
        """Compute the pieces, and mark them as computed.

        Returns:
            the sequences that sample now, and their logits, `(len(sequences), vocabulary)`.
        """
        # Neighbours in length share an attention call, see `attention`.
        ordered = sorted(pieces, key=lambda piece: (piece.size > 1, piece.start))
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        sampling: list[LiveSequence] = []
        scored: list[tuple[LiveSequence, range]] = []
        for sequence, start, size, samples in ordered:
            if len(told := _overlap(sequence.unscored, start, size)):
                scored.append((sequence, range(len(tokens) + told.start - start, len(tokens) + told.stop - start)))
            tokens += sequence.tokens[start : start + size]
            positions += range(start, start + size)
            if samples:
                wanted.append(len(tokens) - 1)
                sampling.append(sequence)
        rows = [*wanted, *(row for _, told in scored for row in told)]
        with torch.inference_mode():
            logits = self._forward(ordered, tokens, positions, rows)
        at = len(wanted)
        for sequence, told in scored:
            score_prompt(logits[at : at + len(told)], sequence)
            at += len(told)
        for sequence, _, size, _ in ordered:
            sequence.computed += size
        return sampling, logits[: len(wanted)]

    def _forward(
        self, pieces: Sequence[Piece], tokens: list[int], positions: list[int], rows: list[int]
    ) -> torch.Tensor:
        step = PackedStep(pieces, self._kv)
        if not any(isinstance(piece.sequence.request.prompt, Illustrated) for piece in pieces):
            for written in self.written:
                if written.takes(len(tokens)):
                    return written.logits(step, tokens, positions, rows)
        with attending(step):
            logits: torch.Tensor = self.model(
                **model_inputs(self.model, pieces, tokens, positions),
                use_cache=False,
                # The head is the widest layer of all: only for rows that need it.
                logits_to_keep=torch.tensor(rows, dtype=torch.long, device=self._kv.device),
            ).logits[0]
            return logits


def _overlap(unscored: range, start: int, size: int) -> range:
    """Return which of the positions are in a piece; none where the piece leaves a gap before it."""
    return range(unscored.start, min(unscored.stop, start + size)) if start <= unscored.start else range(0)

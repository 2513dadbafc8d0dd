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


class OneToken(Protocol):
    """A shorter way to compute one token of one sequence."""

    def logits(self, piece: Piece, kv: KVSlab) -> torch.Tensor:
        """Return `(1, vocabulary)`."""


class Runner:
    """A model and its KV memory.

    Args:
        model: a causal language model whose attention function is ours.
        kv: sized for it.

    Attributes:
        one_token: a shorter way for a sequence that decodes alone, where there is one.
    """

    one_token: OneToken | None = None

    def __init__(self, model: Any, kv: KVSlab) -> None:
        self._model = model
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
        if self.one_token is not None and _decodes_alone(pieces):
            sequence = pieces[0].sequence
            logits = self.one_token.logits(pieces[0], self._kv)
            sequence.computed += 1
            return [sequence], logits
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
        device = self._kv.device
        with torch.inference_mode(), attending(PackedStep(ordered, self._kv)):
            logits = self._model(
                **model_inputs(self._model, ordered, tokens, positions),
                use_cache=False,
                # The head is the widest layer of all: only for rows that need it.
                logits_to_keep=torch.tensor(rows, dtype=torch.long, device=device),
            ).logits[0]
        at = len(wanted)
        for sequence, told in scored:
            score_prompt(logits[at : at + len(told)], sequence)
            at += len(told)
        for sequence, _, size, _ in ordered:
            sequence.computed += size
        return sampling, logits[: len(wanted)]


def _decodes_alone(pieces: Sequence[Piece]) -> bool:
    sequence, _, size, samples = pieces[0]
    return len(pieces) == size == 1 and samples and not isinstance(sequence.request.prompt, Illustrated)


def _overlap(unscored: range, start: int, size: int) -> range:
    """Return which of the positions are in a piece; none where the piece leaves a gap before it."""
    return range(unscored.start, min(unscored.stop, start + size)) if start <= unscored.start else range(0)

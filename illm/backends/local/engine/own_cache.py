"""One forward after the other, each sequence over the cache that its model makes for itself.

What the packed loop cannot drive (recurrent layers, latent attention, soft-capped scores, sinks, whatever comes next)
still knows how to generate: Transformers prepares a forward's inputs from a cache that only the model understands.
Here each sequence has such a cache, and sequences take turns.  A prompt goes through in one piece, since a recurrent
layer may not take it in several; a piece that is not the last only counts.

`Keeping` says how much of that a model bears.  Some keep their past inside their own modules, where only one sequence
can be at a time, and some return no cache at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from illm.backends.local.engine.scheduler import Copy, Piece
from illm.backends.local.engine.scores import score_prompt
from illm.backends.local.engine.sequence import LiveSequence

_DEPTH = 5  # cache, its list of layers, a layer, its tensors, and one more for pairs


class Keeping(Enum):
    """How a model's past is kept between forwards; the values appear in the log."""

    EACH = "a cache a sequence"
    ONE = "a cache in the model, so one sequence at a time"
    NOTHING = "no cache: everything is computed again for each token"


@dataclass(slots=True)
class _Past:
    """What one sequence's next forward is given, and how many tokens that covers."""

    options: dict[str, Any]
    length: int = 0


class OwnCacheRunner:
    """A model that brings its own cache.

    Args:
        model: a Transformers model for causal language modelling, with its own attention.
        keeping: how its past is kept.
    """

    def __init__(self, model: Any, keeping: Keeping) -> None:
        self._model = model
        self._keeping = keeping
        # Weak, so that a sequence which ended or was taken out needs nobody to tell of it.
        self._pasts: WeakKeyDictionary[LiveSequence, _Past] = WeakKeyDictionary()

    def copy(self, copies: Sequence[Copy]) -> None:
        """See `Forward`; what only the model understands cannot be cut, so its scheduler plans no copies."""

    def run(self, pieces: Sequence[Piece]) -> tuple[list[LiveSequence], torch.Tensor]:
        """Compute the pieces after which a token follows, and mark all as computed.

        Returns:
            the sequences that sample now, and their logits, `(len(sequences), vocabulary)`.
        """
        for sequence in [sequence for sequence in self._pasts if not sequence.blocks]:  # preempted: they begin again
            del self._pasts[sequence]
        sampling, rows = [], []
        with torch.inference_mode():
            for sequence, start, size, samples in pieces:
                past = self._pasts.get(sequence)
                if past is not None and start < past.length:
                    del self._pasts[sequence]
                sequence.computed += size
                if samples:
                    rows.append(self._advance(sequence, start + size))
                    sampling.append(sequence)
        return sampling, torch.cat(rows) if rows else torch.empty(0, 0, dtype=torch.float32)

    def bytes_a_token(self, shorter: int = 16, longer: int = 32) -> int:
        """Return how much memory a token more takes: what two prompts' caches differ by."""
        with torch.inference_mode():
            held = [_size(self._prefill([0] * length)[1].options) for length in (shorter, longer)]
        return max(0, held[1] - held[0]) // (longer - shorter)

    def _advance(self, sequence: LiveSequence, end: int) -> torch.Tensor:
        """Return the logits that follow the token before `end`, `(1, vocabulary)`."""
        past = self._pasts.get(sequence)
        if self._keeping is Keeping.NOTHING or past is None:
            unscored = sequence.unscored
            logits, past = self._prefill(sequence.tokens[:end], whole=len(unscored) > 0)
            if self._keeping is not Keeping.NOTHING:
                self._pasts[sequence] = past
            if unscored:
                score_prompt(logits[0, unscored.start : unscored.stop], sequence)
            return logits[:, -1]
        while past.length < end:  # one by one: recurrent layers take a prompt or a token
            logits = self._decode(sequence.tokens[: past.length + 1], past)
        return logits[:, -1]

    def _prefill(self, tokens: list[int], *, whole: bool = False) -> tuple[torch.Tensor, _Past]:
        past = _Past({"use_cache": self._keeping is not Keeping.NOTHING})
        if self._model._supports_logits_to_keep():
            past.options["logits_to_keep"] = 0 if whole else 1
        return self._forward(tokens, past, is_first_iteration=True), past

    def _decode(self, tokens: list[int], past: _Past) -> torch.Tensor:
        return self._forward(tokens, past, next_sequence_length=1)

    def _forward(self, tokens: list[int], past: _Past, **how: Any) -> torch.Tensor:
        ids = torch.tensor([tokens], device=self._model.device)
        past.options["attention_mask"] = torch.ones_like(ids)
        inputs = self._model.prepare_inputs_for_generation(ids, **how, **past.options)
        output = self._model(**inputs, return_dict=True)
        # It knows under which of a dozen names this model returns its cache, and takes it back.
        past.options = self._model._update_model_kwargs_for_generation(output, past.options)
        past.length = len(tokens)
        return output.logits


def _size(thing: Any, depth: int = _DEPTH) -> int:
    """Return the bytes of all tensors within something."""
    if isinstance(thing, torch.Tensor):
        return int(thing.nbytes)
    if depth == 0 or isinstance(thing, nn.Module | str):
        return 0
    if isinstance(thing, dict):
        inner = list(thing.values())
    elif isinstance(thing, list | tuple):
        inner = list(thing)
    else:
        inner = list(getattr(thing, "__dict__", {}).values())
    return sum(_size(one, depth - 1) for one in inner)

"""What a request does to its own logits before anything is chosen: bias, penalties, and tokens it must not have yet.

A penalty counts tokens, and counting them all again at every step would make a long answer slower and slower.  So a
sequence keeps a tally, which takes up only what is new: a few numbers a step, whatever the length.
"""

from collections.abc import Sequence

import torch

from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest

_ROOM = 64


class Tally:
    """The distinct tokens of a sequence, and how often each has been generated.

    Args:
        prompt: tokens that count as seen, though not as generated.
        device: where `apply` will be asked to work.
    """

    def __init__(self, prompt: Sequence[int], device: torch.device) -> None:
        distinct = list(dict.fromkeys(prompt))
        self._places = {token: place for place, token in enumerate(distinct)}
        self._ids = torch.zeros(len(distinct) + _ROOM, dtype=torch.long, device=device)
        self._ids[: len(distinct)] = torch.tensor(distinct, dtype=torch.long, device=device)
        self._counts = torch.zeros(len(self._ids), dtype=torch.float32, device=device)

    def count(self, token: int) -> None:
        """Take up one generated token."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = torch.cat((self._ids, torch.zeros_like(self._ids)))
            self._counts = torch.cat((self._counts, torch.zeros_like(self._counts)))
        self._ids[place] = token
        self._counts[place] += 1

    @property
    def ids(self) -> torch.Tensor:
        """The distinct tokens, in order of appearance."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> torch.Tensor:
        """How often each of `ids` has been generated."""
        return self._counts[: len(self._places)]


class Adjustments:
    """One sequence's changes to its logits.

    Args:
        request: what was asked.
        vocabulary: how many logits a row has.
        device: where they are.
    """

    def __init__(self, request: SequenceRequest, vocabulary: int, device: torch.device) -> None:
        self._request = request
        bias = request.logit_bias
        self._biased = torch.tensor(list(bias), dtype=torch.long, device=device)
        self._bias = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)
        # A tokenizer may know more tokens than its model.
        endings = [token for token in sorted(request.eos) if token < vocabulary]
        self._endings = torch.tensor(endings, dtype=torch.long, device=device)
        self._tally: Tally | None = None
        self._read = len(request.prompt)
        if _penalised(request):
            # Presence and frequency are about what was generated; only repetition looks at the prompt.
            self._tally = Tally(request.prompt if request.repetition_penalty != 1 else (), device)

    def apply(self, row: torch.Tensor, tokens: Sequence[int]) -> None:
        """Change the logits of one row, in place.

        Args:
            row: `(vocabulary,)`, float32 as Transformers has it, for the same rounding.
            tokens: the sequence's, prompt and answer; each call's begin with the last one's.
        """
        request = self._request
        if len(self._biased):
            row[self._biased] += self._bias
        if self._tally is not None:
            for token in tokens[self._read :]:
                self._tally.count(token)
            self._read = len(tokens)
            self._penalise(row, self._tally)
        if len(tokens) - len(request.prompt) < request.min_tokens:
            row[self._endings] = -torch.inf

    def _penalise(self, row: torch.Tensor, tally: Tally) -> None:
        request, ids = self._request, tally.ids
        score = row[ids]
        if request.repetition_penalty != 1:
            penalty = request.repetition_penalty
            score = torch.where(score < 0, score * penalty, score / penalty)
        if request.frequency_penalty:
            score -= request.frequency_penalty * tally.counts
        if request.presence_penalty:
            score -= request.presence_penalty * (tally.counts > 0)
        row[ids] = score


def adjusts(sequence: LiveSequence) -> bool:
    """Whether a sequence's next logits have to be changed at all: a row that is left alone need not be copied."""
    request = sequence.request
    return bool(_penalised(request) or request.logit_bias or sequence.generated < request.min_tokens)


def adjust(row: torch.Tensor, sequence: LiveSequence) -> None:
    """Change one row of logits, in place, as its request asks; see `Adjustments.apply`."""
    if sequence.adjustments is None:
        sequence.adjustments = Adjustments(sequence.request, len(row), row.device)
    sequence.adjustments.apply(row, sequence.tokens)


def _penalised(request: SequenceRequest) -> bool:
    return bool(request.repetition_penalty != 1 or request.presence_penalty or request.frequency_penalty)

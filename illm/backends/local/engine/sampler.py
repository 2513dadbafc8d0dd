"""Logits to token ids.

Sorting a large vocabulary for every token costs as much as the model.  So a row is cut into pieces whose maxima are
found first (one fast pass), and only the pieces that can hold a winner are looked into.  A draw then needs only the
largest few hundred probabilities: the random number says how much of the distribution must be known, and a row that
needs more is drawn again, with the same number, from more.  The result is exact, not truncated.

Rows never influence each other: how many candidates a row uses follows from its own parameters and its own logits.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch

from illm.backends.local.engine.constraint import constrain
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest

_STEPS = (64, 256, 1024, 4096)  # how many candidates a row may start with
_USUAL = 256
_MORE = 16  # times as many when these were not enough
_PIECE = 64
_GREEDY = 1e-6  # a temperature below this leaves nothing to chance


def sample(logits: torch.Tensor, sequences: Sequence[LiveSequence]) -> list[int]:
    """Choose the next token of each sequence.

    Args:
        logits: `(len(sequences), vocabulary)`, any floating type.
        sequences: whose they are; each one's own generator is drawn from.

    Returns:
        one token id for each.
    """
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for row, sequence in enumerate(sequences):
        request = sequence.request
        groups[_candidates(request, logits.shape[1]), request.repetition_penalty != 1].append(row)
    chosen = [0] * len(sequences)
    with torch.inference_mode():
        logits = constrain(logits, sequences)
        for (count, penalised), rows in groups.items():
            some = logits if len(rows) == len(sequences) else logits[rows]
            members = [sequences[row] for row in rows]
            if penalised:
                some = _penalise(some, members)
            ids = top(some, 1)[1][:, 0].tolist() if count == 1 else _draw(some, members, count)
            for row, token in zip(rows, ids, strict=True):
                chosen[row] = token
    return chosen


def _candidates(request: SequenceRequest, vocabulary: int) -> int:
    if request.temperature < _GREEDY or request.top_k == 1:
        return 1
    wanted = request.top_k or _USUAL
    return min(next((count for count in _STEPS if wanted <= count), vocabulary), vocabulary)


def _penalise(logits: torch.Tensor, sequences: Sequence[LiveSequence]) -> torch.Tensor:
    # In float32 as Transformers does it, for the same rounding.
    logits = logits.to(torch.float32, copy=True)
    for row, sequence in zip(logits, sequences, strict=True):
        ids = torch.tensor(sequence.tokens, device=logits.device)
        score = row[ids]
        penalty = sequence.request.repetition_penalty
        row[ids] = torch.where(score < 0, score * penalty, score / penalty)
    return logits


def _draw(logits: torch.Tensor, sequences: Sequence[LiveSequence], count: int) -> list[int]:
    device = logits.device
    requests = [sequence.request for sequence in sequences]
    luck = torch.tensor([sequence.draw() for sequence in sequences], dtype=torch.float64, device=device)
    temperature = torch.tensor([request.temperature for request in requests], dtype=torch.float64, device=device)
    top_p = torch.tensor([request.top_p for request in requests], dtype=torch.float64, device=device)
    limit = torch.tensor([request.top_k or logits.shape[1] for request in requests], device=device)
    whole = _mass(logits, temperature, limit)
    chosen = torch.zeros(len(sequences), dtype=torch.long, device=device)
    rows = torch.arange(len(sequences), device=device)
    while len(rows):
        ids, known = _pick(logits[rows], count, luck[rows], temperature[rows], top_p[rows], limit[rows], whole[rows])
        chosen[rows] = ids
        rows = rows[~known]
        count = min(count * _MORE, logits.shape[1])
    return chosen.tolist()  # type: ignore[no-any-return]


def _mass(logits: torch.Tensor, temperature: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """Return each row's sum of weights relative to its largest; zero where `top_k` makes it needless."""
    masses = []
    # Row by row: a float copy of one row stays in the cache, a copy of all of them does not.
    for row, heat, most in zip(logits, temperature.tolist(), limit.tolist(), strict=True):
        if most < len(row):
            masses.append(torch.zeros((), dtype=torch.float64, device=logits.device))
        else:
            masses.append((row.float() - row.amax()).div_(heat).exp_().sum().double())
    return torch.stack(masses)


def _pick(
    logits: torch.Tensor,
    count: int,
    luck: torch.Tensor,
    temperature: torch.Tensor,
    top_p: torch.Tensor,
    limit: torch.Tensor,
    whole: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from the `count` likeliest tokens; also return for which rows these were enough."""
    values, ids = top(logits, count)
    weights = ((values - values[:, :1]).double() / temperature.unsqueeze(1)).exp()
    weights.masked_fill_(torch.arange(count, device=logits.device) >= limit.unsqueeze(1), 0)
    reached = weights.cumsum(1)
    found = reached[:, -1]
    limited = limit <= count
    complete = limited | (count == logits.shape[1])
    total = torch.where(complete, found, whole)
    # The nucleus: every token before which less than top_p has been reached.
    inside = (reached - weights < (top_p * total).unsqueeze(1)).sum(1).clamp_(min=1)
    closed = complete | (found >= top_p * total)
    nucleus = torch.where(closed, reached.gather(1, inside.unsqueeze(1) - 1).squeeze(1), top_p * total)
    goal = luck * nucleus
    at = (reached <= goal.unsqueeze(1)).sum(1).minimum(inside - 1)
    # Without a nucleus to close, knowing the distribution up to the random number is knowing enough.
    known = closed | ((top_p >= 1) & (goal < found))
    return ids.gather(1, at.unsqueeze(1)).squeeze(1), known


def top(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `count` largest values of each row as floats, falling, and their ids, each `(rows, count)`."""
    rows, vocabulary = logits.shape
    pieces = vocabulary // _PIECE
    if count * 4 > pieces:  # most pieces would be looked into: nothing to save
        values, ids = logits.topk(count)
        return values.float(), ids
    # The largest `count` values lie in the `count` pieces with the largest maxima; the odd end joins as it is.
    body = logits[:, : pieces * _PIECE].unflatten(1, (pieces, _PIECE))
    if count == 1:
        best = body.amax(2).argmax(1, keepdim=True)
    else:
        best = body.amax(2).topk(count, sorted=False).indices.sort(1).values
    inner = body.gather(1, best.unsqueeze(2).expand(rows, count, _PIECE)).flatten(1)
    where = (best.unsqueeze(2) * _PIECE + torch.arange(_PIECE, device=logits.device)).flatten(1)
    tail = torch.arange(pieces * _PIECE, vocabulary, device=logits.device).expand(rows, -1)
    inner = torch.cat((inner, logits[:, pieces * _PIECE :]), 1)
    where = torch.cat((where, tail), 1)
    if count == 1:
        at = inner.argmax(1, keepdim=True)  # of equals the first, as a plain argmax has it
        return inner.gather(1, at).float(), where.gather(1, at)
    values, at = inner.topk(count)
    return values.float(), where.gather(1, at)

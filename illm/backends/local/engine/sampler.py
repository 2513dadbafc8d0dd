"""Logits to token ids.

Sorting a large vocabulary for every token costs as much as the model.  So a row is cut into pieces whose maxima are
found first (one fast pass), and only the pieces that can hold a winner are looked into.  A draw then needs only the
largest few hundred probabilities: the random number says how much of the distribution must be known, and a row that
needs more is drawn again, with the same number, from the whole (`exhaustive`).  The result is exact, not truncated.

What is done to a row comes in this order: bias, penalties and `min_tokens` (`adjustments`), what a grammar allows,
temperature, `top_k`, `top_p`, `min_p`, `typical_p`.  The last five are Transformers' warpers in Transformers' order.

Rows never influence each other: how many candidates a row uses follows from its own parameters and its own logits.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch

from illm.backends.local.engine import exhaustive
from illm.backends.local.engine.adjustments import adjust, adjusts
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest

_STEPS = (64, 256, 1024, 4096)  # how many candidates a row may start with
_USUAL = 256
_PIECE = 64
_GREEDY = 1e-6  # a temperature below this leaves nothing to chance
_ALL = 0  # for a row that has to be looked at as a whole


def sample(
    logits: torch.Tensor, sequences: Sequence[LiveSequence], allowed: Sequence[torch.Tensor | None] = ()
) -> list[int]:
    """Choose the next token of each sequence.

    Args:
        logits: `(len(sequences), vocabulary)`, any floating type; left as they are.
        sequences: whose they are; each one's own generator is drawn from.
        allowed: for each, which tokens it may have, `(vocabulary,)` bool; None, or nothing at all, for any.

    Returns:
        one token id for each.
    """
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    changed: dict[int, torch.Tensor] = {}
    chosen = [0] * len(sequences)
    with torch.inference_mode():
        for row, sequence in enumerate(sequences):
            mask = allowed[row] if allowed else None
            if mask is not None or adjusts(sequence):
                changed[row] = _changed(logits[row], sequence, mask)
            groups[_candidates(sequence.request, logits.shape[1]), row in changed].append(row)
        for (count, copied), rows in groups.items():
            some = torch.stack([changed[row] for row in rows]) if copied else _rows(logits, rows)
            members = [sequences[row] for row in rows]
            if count == _ALL:
                ids = [_draw_whole(one, member) for one, member in zip(some, members, strict=True)]
            elif count == 1:
                ids = top(some, 1)[1][:, 0].tolist()
            else:
                ids = _draw(some, members, count)
            for row, token in zip(rows, ids, strict=True):
                chosen[row] = token
    return chosen


def _rows(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    return logits if len(rows) == len(logits) else logits[list(rows)]


def _changed(row: torch.Tensor, sequence: LiveSequence, allowed: torch.Tensor | None) -> torch.Tensor:
    """Return a row's logits as everything that picks shall see them: the one place where they are changed."""
    row = row.to(torch.float32, copy=True)
    if adjusts(sequence):
        adjust(row, sequence)
    if allowed is not None:
        row.masked_fill_(~allowed, -torch.inf)
    return row


def _candidates(request: SequenceRequest, vocabulary: int) -> int:
    if request.temperature < _GREEDY or request.top_k == 1:
        return 1
    limited = 0 < request.top_k < vocabulary
    if request.typical_p < 1 or (limited and request.top_k > _STEPS[-1]):
        return _ALL
    wanted = request.top_k if limited else _USUAL
    return min(next(count for count in _STEPS if wanted <= count), vocabulary)


def _draw_whole(row: torch.Tensor, sequence: LiveSequence) -> int:
    request = sequence.request
    if 0 < request.top_k <= _STEPS[-1] and request.top_k < len(row):
        values, ids = top(row.unsqueeze(0), request.top_k)
        return int(ids[0, exhaustive.draw(values[0], request, sequence.draw())])
    return exhaustive.draw(row, request, sequence.draw(), top_k=request.top_k)


def _draw(logits: torch.Tensor, sequences: Sequence[LiveSequence], count: int) -> list[int]:
    device = logits.device
    requests = [sequence.request for sequence in sequences]
    luck = [sequence.draw() for sequence in sequences]

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device)

    limit = torch.tensor([request.top_k or logits.shape[1] for request in requests], device=device)
    ids, known = _pick(
        logits,
        count,
        column(luck),
        column([request.temperature for request in requests]),
        column([request.top_p for request in requests]),
        column([request.min_p for request in requests]),
        limit,
        _mass(logits, requests),
    )
    chosen: list[int] = ids.tolist()
    for row, enough in enumerate(known.tolist()):
        if not enough:
            chosen[row] = exhaustive.draw(logits[row], requests[row], luck[row])
    return chosen


def _mass(logits: torch.Tensor, requests: Sequence[SequenceRequest]) -> torch.Tensor:
    """Return each row's sum of weights relative to its largest; infinity where nothing can depend on it."""
    masses = []
    # Row by row: a float copy of one row stays in the cache, a copy of all of them does not.
    for row, request in zip(logits, requests, strict=True):
        if 0 < request.top_k < len(row) or (request.min_p > 0 and request.top_p >= 1):
            masses.append(torch.full((), torch.inf, dtype=torch.float64, device=logits.device))
        else:
            masses.append((row.float() - row.amax()).div_(request.temperature).exp_().sum().double())
    return torch.stack(masses)


def _pick(
    logits: torch.Tensor,
    count: int,
    luck: torch.Tensor,
    temperature: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    limit: torch.Tensor,
    whole: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw from the `count` likeliest tokens; also return for which rows these were enough."""
    values, ids = top(logits, count)
    weights = ((values - values[:, :1]).double() / temperature.unsqueeze(1)).exp()
    weights.masked_fill_(torch.arange(count, device=logits.device) >= limit.unsqueeze(1), 0)
    reached = weights.cumsum(1)
    found = reached[:, -1]
    complete = (limit <= count) | (count == logits.shape[1])
    total = torch.where(complete, found, whole)
    # The nucleus: every token before which less than top_p has been reached, and that is not too rare for min_p.
    inside = (reached - weights < (top_p * total).unsqueeze(1)).sum(1)
    inside = inside.minimum((weights >= min_p.unsqueeze(1)).sum(1)).clamp_(min=1)
    closed = complete | (found >= top_p * total) | (weights[:, -1] < min_p)
    nucleus = torch.where(closed, reached.gather(1, inside.unsqueeze(1) - 1).squeeze(1), top_p * total)
    goal = luck * nucleus
    at = (reached <= goal.unsqueeze(1)).sum(1).minimum(inside - 1)
    # Without a nucleus to close, knowing the distribution up to the random number is knowing enough.
    known = closed | ((top_p >= 1) & (min_p <= 0) & (goal < found))
    return ids.gather(1, at.unsqueeze(1)).squeeze(1), known & found.isfinite()


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

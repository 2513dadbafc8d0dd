"""Logits to token ids.

Sorting a large vocabulary for every token costs as much as the model.  So a row is cut into pieces whose maxima are
found first (one fast pass), and only the pieces that can hold a winner are looked into.  A draw then needs only the
largest few hundred probabilities: the random number says how much of the distribution must be known, and a row that
needs more is drawn again, with the same number, from more, and at last from the whole (`exhaustive`).  The result is
exact, not truncated.

What is done to a row comes in this order: bias, penalties and `min_tokens` (`adjustments`), what a grammar allows,
temperature, `top_k`, `top_p`, `min_p`, `typical_p`.  The last five are Transformers' warpers in Transformers' order.

Rows never influence each other: how many candidates a row uses follows from its own parameters and its own logits.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch

from illm.backends.local.engine import exhaustive
from illm.backends.local.engine.adjustments import adjust, adjusts
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest

_STEPS = (64, 256, 1024, 4096)  # how many candidates a row may start with
_USUAL = 256
_COPIED = 8  # rows
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
    masks = allowed or [None] * len(sequences)
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for row, (sequence, mask) in enumerate(zip(sequences, masks, strict=True)):
        changes = mask is not None or adjusts(sequence)
        groups[_candidates(sequence.request, logits.shape[1]), changes].append(row)
    chosen = [0] * len(sequences)
    with torch.inference_mode():
        for count, changes, rows in _few_copies(groups):
            members = [sequences[row] for row in rows]
            if changes:
                some = _changed(logits, rows, members, [masks[row] for row in rows])
            else:
                some = logits if len(rows) == len(logits) else logits[rows]
            if count == _ALL:
                ids = [_draw_whole(one, member) for one, member in zip(some, members, strict=True)]
            elif count == 1:
                ids = top(some, 1)[1][:, 0].tolist()
            else:
                ids = _draw(some, members, count)
            for row, token in zip(rows, ids, strict=True):
                chosen[row] = token
    return chosen


def _few_copies(groups: Mapping[tuple[int, bool], list[int]]) -> Iterator[tuple[int, bool, list[int]]]:
    """Cut up the groups whose rows are copied: the copy of a few rows stays in the cache, one of many does not."""
    for (count, changes), rows in groups.items():
        size = _COPIED if changes else len(rows)
        for start in range(0, len(rows), size):
            yield count, changes, rows[start : start + size]


def _changed(
    logits: torch.Tensor,
    rows: Sequence[int],
    sequences: Sequence[LiveSequence],
    allowed: Sequence[torch.Tensor | None],
) -> torch.Tensor:
    """Return rows of logits as everything that picks shall see them: the one place where they are changed."""
    changed = logits.new_empty((len(rows), logits.shape[1]), dtype=torch.float32)
    for copy, row, sequence, mask in zip(changed, rows, sequences, allowed, strict=True):
        copy.copy_(logits[row])
        if adjusts(sequence):
            adjust(copy, sequence)
        if mask is not None:
            copy.masked_fill_(~mask, -torch.inf)
    return changed


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
    conditions = (
        column(luck),
        column([request.temperature for request in requests]),
        column([request.top_p for request in requests]),
        column([request.min_p for request in requests]),
        limit,
        _mass(logits, requests),
    )
    ids, known = _pick(logits, count, *conditions)
    chosen: list[int] = ids.tolist()
    unknown = (~known).nonzero().squeeze(1)
    if len(unknown) and count < (more := min(_STEPS[-1], logits.shape[1])):
        ids, known = _pick(logits[unknown], more, *(condition[unknown] for condition in conditions))
        for row, token in zip(unknown.tolist(), ids.tolist(), strict=True):
            chosen[row] = token
        unknown = unknown[~known]
    for row in unknown.tolist():
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

"""One draw from a whole row, for the few rows whose likeliest candidates do not settle it.

A flat distribution, or a choice that does not follow the order of probability (`typical_p`).  A sort would cost as much
as the model; what is asked for is only ever one border in an order.  A few thousand tokens, taken evenly from the
row, say about where that is; one pass adds up what is before it, and nothing but the tokens around it is sorted.  Where
the guess was wrong, the side that it left is looked through in the same way.
"""

import math

import torch

from illm.backends.local.engine.sequence import SequenceRequest

_FEW = 8192  # tokens that are sorted rather than looked through
_ASKED = 4096
_MARGIN = 0.025  # of the weight: about three standard errors of what so many tokens say
_NOTHING = -120.0  # the exponential of this is no number of float32


def draw(logits: torch.Tensor, request: SequenceRequest, luck: float, *, top_k: int = 0) -> int:
    """Draw one token of a row.

    Args:
        logits: `(vocabulary,)`, or any part of it, floating.
        request: its temperature, `top_p`, `min_p` and `typical_p` hold, in this order.
        luck: from [0, 1); places in falling order of probability, so that the same number means the same token.
        top_k: 0 where `logits` are that many already, or no limit was asked for.

    Returns:
        the place of the token in `logits`.
    """
    values = logits.float()
    keys = ((values - values.max()) / request.temperature).clamp_(min=_NOTHING)
    weights = keys.exp()
    if not float(weights.sum()) > 0:  # no numbers at all: any token is as good as another, but it must be one
        return int(values.nan_to_num(nan=-torch.inf).argmax())
    if 0 < top_k < len(keys):
        around, reached = _around(keys, torch.ones_like(keys), top_k)
        weights *= keys >= keys[around[(reached < top_k).sum()]]
    if request.top_p < 1:
        _keep(keys, weights, request.top_p)
    if request.min_p > 0:
        weights *= weights >= request.min_p
    kept: torch.Tensor | None = None
    if request.typical_p < 1:
        if request.top_p < 1 or request.min_p > 0 or top_k > 0:
            # Few are left then, and a sample of all would be of those without weight.
            kept = weights.nonzero().squeeze(1)
            keys, weights = keys[kept], weights[kept]
        # The same as the distance of log-probability and entropy: what both are relative to goes out of it.
        mean = float((weights * keys).sum(dtype=torch.float64) / weights.sum(dtype=torch.float64))
        _keep((keys - mean).abs_().neg_(), weights, request.typical_p)
    goal = _goal(weights, luck)
    around, reached = _around(keys, weights, goal)
    place = around[(reached < goal).sum()]
    return int(place if kept is None else kept[place])


def _goal(weights: torch.Tensor, share: float) -> float:
    """Return a share of all weight, and no less than what one token is needed for, nor more than all of them have."""
    total = float(weights.sum(dtype=torch.float64))
    return min(math.nextafter(share * total, math.inf), total * (1 - 1e-9))


def _keep(keys: torch.Tensor, weights: torch.Tensor, share: float) -> None:
    """Take all weight from those behind the token, in falling order of keys, with which a share of it is reached."""
    goal = _goal(weights, share)
    around, reached = _around(keys, weights, goal)
    last = int((reached < goal).sum())
    border = keys[around[last]]
    weights *= keys >= border  # several times as fast as filling by a mask
    rest = around[last + 1 :]
    weights[rest[keys[rest] == border]] = 0


def _around(keys: torch.Tensor, weights: torch.Tensor, goal: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return some tokens next to each other, among them the one with which a goal is reached.

    Args:
        keys: `(tokens,)`; they are in falling order of these, equal ones in order of place.
        weights: `(tokens,)`, none negative.
        goal: above 0, and not above their sum.

    Returns:
        the places of these tokens, in order, with all that are equal to one of them; and the weight of everything up to
        and with each.
    """
    places: torch.Tensor | None = None
    before = 0.0
    while len(keys) > _FEW:
        high, low = _guess(keys, weights, goal - before)
        above = keys > high
        over = float((weights * above).sum(dtype=torch.float64))
        if before + over >= goal:
            inside = above
        else:
            below = keys < low
            upto = over if high < low else float((weights * (keys >= low)).sum(dtype=torch.float64))
            behind = before + upto < goal
            inside = below if behind else above.logical_or_(below).logical_not_()
            before += upto if behind else over
        some = inside.nonzero().squeeze(1)
        if len(some) in (0, len(keys)):  # all of them are equal, or a sum was rounded: nothing to leave out
            break
        keys, weights = keys[some], weights[some]
        places = some if places is None else places[some]
    lowest, highest = keys.aminmax()
    if lowest == highest:
        return torch.arange(len(keys), device=keys.device) if places is None else places, _up_to(before, weights)
    order = keys.argsort(descending=True, stable=True)
    return order if places is None else places[order], _up_to(before, weights[order])


def _up_to(before: float, weights: torch.Tensor) -> torch.Tensor:
    return before + weights.cumsum(0, dtype=torch.float64)


def _guess(keys: torch.Tensor, weights: torch.Tensor, goal: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two keys between which a goal probably is."""
    every = max(1, len(keys) // _ASKED)
    asked, at = keys[::every].sort(descending=True)
    reached = weights[::every][at].cumsum(0, dtype=torch.float64)
    share = goal / (float(reached[-1]) * every) if reached[-1] > 0 else 0.0
    ends = torch.tensor([share - _MARGIN, share + _MARGIN], dtype=torch.float64, device=keys.device)
    high, low = torch.searchsorted(reached, ends * reached[-1]).clamp_(max=len(asked) - 1)
    return asked[high], asked[low]

"""One draw from a whole row, for the few rows whose likeliest candidates do not settle it.

A flat distribution, or a choice that does not follow the order of probability (`typical_p`).  A sort would cost as much
as the model; what is asked for is only ever one border or one place in an order.  So the row is spread over buckets in
that order, the bucket with the border is found by adding up, and nothing but that bucket is sorted.
"""

import torch

from illm.backends.local.engine.sequence import SequenceRequest

_BUCKETS = 4096


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
    values = logits.double()
    weights = ((values - values.max()) / request.temperature).exp_()
    ids = weights.gt(0).nonzero().squeeze(1)
    if len(ids) == 0:  # no numbers at all: any token is as good as another, but it must be one
        return int(values.nan_to_num(nan=-torch.inf).argmax())
    weights = weights[ids]
    order = -values[ids]
    if 0 < top_k < len(ids):
        keep = order <= order.kthvalue(top_k).values
        ids, weights, order = ids[keep], weights[keep], order[keep]
    if request.top_p < 1:
        keep = _reaching(order, weights, request.top_p)
        ids, weights, order = ids[keep], weights[keep], order[keep]
    if request.min_p > 0:
        keep = weights >= request.min_p
        ids, weights, order = ids[keep], weights[keep], order[keep]
    if request.typical_p < 1:
        logprobs = (weights / weights.sum()).log_()
        entropy = -(logprobs * logprobs.exp()).sum()
        keep = _reaching((logprobs + entropy).abs_(), weights, request.typical_p)
        ids, weights, order = ids[keep], weights[keep], order[keep]
    return int(ids[_at(order, weights, luck)])


def _reaching(order: torch.Tensor, weights: torch.Tensor, share: float) -> torch.Tensor:
    """Return which tokens come first in an order, up to the one with which a share of the weight is reached."""
    buckets, mass = _spread(order, weights)
    goal = share * mass[-1]
    border = int((mass < goal).sum().clamp_(max=len(mass) - 1))
    keep = buckets < border
    members, reached, own = _inside(buckets, border, order, weights, mass)
    keep[members[: max(int((reached - own < goal).sum()), 1)]] = True
    return keep


def _at(order: torch.Tensor, weights: torch.Tensor, luck: float) -> int:
    """Return the first token in an order with which more than a share of the weight is reached."""
    buckets, mass = _spread(order, weights)
    goal = luck * mass[-1]
    border = int((mass <= goal).sum().clamp_(max=len(mass) - 1))
    members, reached, _ = _inside(buckets, border, order, weights, mass)
    return int(members[int((reached <= goal).sum().clamp_(max=len(members) - 1))])


def _spread(order: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's bucket, and the weight up to and with each bucket, the last of which is not empty."""
    low, high = order.aminmax()
    buckets = ((order - low) * ((_BUCKETS - 1) / (high - low).clamp(min=1e-12))).long().clamp_(max=_BUCKETS - 1)
    return buckets, buckets.bincount(weights).cumsum(0)


def _inside(
    buckets: torch.Tensor, border: int, order: torch.Tensor, weights: torch.Tensor, mass: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the tokens of one bucket in order, the weight up to and with each of them, and each one's own."""
    members = (buckets == border).nonzero().squeeze(1)
    members = members[order[members].argsort(stable=True)]
    own = weights[members]
    before = mass[border - 1] if border else mass.new_zeros(())
    return members, before + own.cumsum(0), own

"""One draw from a whole row, for the few rows whose likeliest candidates do not settle it.

A flat distribution, or a choice that does not follow the order of probability (`typical_p`).  A sort would cost as much
as the model; what is asked for is only ever one border or one place in an order.  So the row is spread over buckets in
that order, the bucket with the border is found by adding up, and nothing but that bucket is sorted.

`top_k`, `top_p` and `min_p` each keep the beginning of one and the same order.  A beginning is known by its weight
alone, so none of them touches the row again.
"""

import math

import torch

from illm.backends.local.engine.sequence import SequenceRequest

_BUCKETS = 4096
_DEEP = 40.0  # a weight of exp(-40) is next to nothing: what is rarer shares the last bucket
_NEVER = 1000.0  # exp(-1000) is zero, and zero times 1000 as well


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
    # In place wherever it may be: fresh megabytes cost more than what is computed in them.
    keys = logits.double()
    keys.sub_(keys.max()).div_(-request.temperature).clamp_(max=_NEVER)
    weights = keys.neg().exp_()
    if not weights.sum().isfinite():  # no numbers at all: any token is as good as another, but it must be one
        return int(logits.double().nan_to_num(nan=-torch.inf).argmax())
    falling = _Order(keys, weights)
    kept = falling.whole
    if 0 < top_k < len(logits):
        kept = falling.first(top_k)
    if request.top_p < 1:
        kept = falling.reaching(request.top_p * kept)
    if request.min_p > 0:
        kept = min(kept, falling.down_to(request.min_p))
    if request.typical_p < 1:
        if kept < falling.whole:
            weights = falling.beginning(kept)
        falling.weigh(_typical(keys, weights, kept, request.typical_p))
        kept = falling.whole
    return falling.at(luck * kept)


def _typical(keys: torch.Tensor, weights: torch.Tensor, whole: float, share: float) -> torch.Tensor:
    """Return the weights of those tokens whose surprise is nearest to the expected one, zero for all others."""
    # A surprise is a key and a constant; the entropy is the mean of all.
    expected = weights.dot(keys) / whole
    order = _Order(keys.sub(expected).abs_(), weights)
    return order.beginning(order.reaching(share * order.whole))


class _Order:
    """The tokens of a row in some order, which of equals has the first first; none is moved.

    Args:
        keys: `(tokens,)` float64, rising in that order.
        weights: `(tokens,)` float64, not negative and not all zero.
    """

    def __init__(self, keys: torch.Tensor, weights: torch.Tensor) -> None:
        self._keys = keys
        low, high = (float(end) for end in keys.aminmax())
        self._low, self._scale = low, (_BUCKETS - 1) / max(min(high - low, _DEEP), 1e-12)
        self._buckets = self._spread(keys)
        self.weigh(weights)

    def weigh(self, weights: torch.Tensor) -> None:
        """Give the tokens other weights; their order stays."""
        self._weights = weights
        self._mass = self._buckets.bincount(weights, minlength=_BUCKETS).cumsum(0)
        self.whole = float(self._mass[-1])

    def first(self, count: int) -> float:
        """Return what the first `count` tokens weigh; `count` is less than there are."""
        reached = self._buckets.bincount(minlength=_BUCKETS).cumsum(0)
        border = int((reached < count).sum())
        before = int(reached[border - 1]) if border else 0
        return float(self._inside(border)[1][count - before - 1])

    def reaching(self, goal: float) -> float:
        """Return what the tokens weigh up to and with the one that reaches a weight."""
        _, reached, own = self._inside(self._bucket(self._mass < goal))
        return float(reached[max(int((reached - own < goal).sum()), 1) - 1])

    def down_to(self, least: float) -> float:
        """Return what those tokens weigh each of which weighs so much, where a key is minus the weight's logarithm."""
        border = int(self._spread(self._keys.new_tensor([-math.log(least)])))
        before = float(self._mass[border - 1]) if border else 0.0
        _, reached, own = self._inside(border)
        some = int((own >= least).sum())
        return float(reached[some - 1]) if some else before

    def beginning(self, weight: float) -> torch.Tensor:
        """Return the weights of the first tokens that weigh so much together, and zero for all others."""
        border = self._bucket(self._mass < weight)
        members, reached, _ = self._inside(border)
        kept = self._weights.clone().mul_(self._buckets < border)  # a fill by a mask takes several times as long
        few = members[: max(int((reached < weight).sum()) + 1, 1)]
        kept[few] = self._weights[few]
        return kept

    def at(self, goal: float) -> int:
        """Return the first token with which the weight is more than `goal`, which is less than the whole."""
        members, reached, own = self._inside(self._bucket(self._mass <= goal))
        return int(members[min(int((reached <= goal).sum()), int(own.gt(0).nonzero()[-1]))])

    def _spread(self, keys: torch.Tensor) -> torch.Tensor:
        places = keys.float().sub_(self._low).mul_(self._scale)
        return places.clamp_(0, _BUCKETS - 1).int()

    def _bucket(self, before: torch.Tensor) -> int:
        """Return the first bucket that is not `before` something, at most the last with any weight."""
        return int(torch.minimum(before.sum(), (self._mass < self.whole).sum()))

    def _inside(self, bucket: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the tokens of one bucket in order, the weight up to and with each of them, and each one's own."""
        members = (self._buckets == bucket).nonzero().squeeze(1)
        keys = self._keys[members]
        if len(members) > 1 and keys.min() != keys.max():
            members = members[keys.argsort(stable=True)]
        own = self._weights[members]
        before = self._mass[bucket - 1] if bucket else own.new_zeros(())
        return members, before + own.cumsum(0), own

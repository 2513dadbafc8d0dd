"""The head for one row alone: all logits in four bits, then the largest of them again, exactly.

Nobody looks at most of a vocabulary.  Four bits a weight say well enough which few hundred tokens can be meant, and
they are half of what the int8 head reads; of those the exact weights are read, which is next to nothing.
So what a greedy choice, `top_k` or a narrow nucleus looks at is exact, and the rest is near.  Requests that ask about
the rest as well, or that lift tokens out of it, get the other head: `suffices` tells them apart.

The operators are private to PyTorch, so they are tried on a small example first.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from illm.backends.local.engine.int8 import replace_head
from illm.backends.local.engine.scheduler import Piece
from illm.backends.local.engine.sequence import SequenceRequest

_log = logging.getLogger(__name__)

EXACT = 512
"""How many of the largest logits are computed again, at least."""

_GROUPS = (128, 64, 32)  # weights that share a scale: the more, the less there is to read
_LARGEST = 7
_OUT = 64  # the kernel's block of outputs; and into how many layers a vocabulary is folded, see `_top`
_SMALLEST_SCALE = 1e-12
_PART = 1 << 14  # rows


class ScannedHead(nn.Module):  # type: ignore[misc]  # torch is Any to the type checker
    """A head in four bits beside another, for one row whose likeliest tokens are all that matters.

    Args:
        weight: `(vocabulary, in)` bfloat16, the exact one; it is kept.
        whole: the head for every other case.
        exact: how many of the largest logits are computed again, at least; at most one in `_OUT` of all.

    Attributes:
        enough: whether the likeliest tokens suffice for the row that comes next.
        most: for up to how many rows; more than one only to measure what it costs.
    """

    enough = False
    most = 1

    def __init__(self, weight: torch.Tensor, whole: nn.Module, exact: int) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._whole = whole
        self._count = exact
        self._exact = weight.detach()  # no parameter: it is another's, most often the embedding's
        self._group = next(group for group in _GROUPS if self.in_features % group == 0)
        self._weight, self._scales = _rounded(self._exact, self._group)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        flat = rows.reshape(-1, self.in_features)
        if not self.enough or not 0 < len(flat) <= self.most:
            return self._whole(rows)
        found = [self._scan(row) for row in flat.split(1)]
        return (found[0] if len(found) == 1 else torch.cat(found)).view(*rows.shape[:-1], self.out_features)

    def _scan(self, row: torch.Tensor) -> torch.Tensor:
        logits = torch.ops.aten._weight_int4pack_mm_for_cpu(row, self._weight, self._group, self._scales)
        likeliest = _top(logits[0], self._count)
        again = functional.linear(row, self._exact.index_select(0, likeliest))
        return logits.index_copy_(1, likeliest, again)


def scan(model: Any, head: nn.Linear) -> ScannedHead | None:
    """Put a head in four bits beside the model's present one, in place, where that can be.

    Args:
        model: whose head has been replaced already.
        head: what it had before.
    """
    if not suits(head):
        return None
    if (reason := _unusable()) is not None:
        _log.warning("a head in four bits is not used for one row: %s", reason)
        return None
    with torch.inference_mode():
        whole = model.get_output_embeddings()
        scanned = ScannedHead(head.weight, whole, EXACT)
    replace_head(model, whole, scanned)
    return scanned


def suits(head: nn.Linear) -> bool:
    """Return whether the kernel can have this head, and it is worth while."""
    return (
        head.bias is None
        and head.weight.dtype is torch.bfloat16
        and head.in_features % _GROUPS[-1] == 0
        and head.out_features % _OUT == 0
        and head.out_features >= _OUT * EXACT
    )


# What a request must not ask for, or it needs more of the distribution than its likeliest tokens.
_NEEDS_ALL: tuple[Callable[[SequenceRequest], bool], ...] = (
    lambda request: request.logprobs is not None,
    lambda request: request.constraint is not None,  # the likeliest may all be forbidden
    lambda request: bool(request.logit_bias),  # the same; or one of the others may be lifted
    lambda request: request.typical_p < 1,
    lambda request: request.repetition_penalty < 1 or min(request.presence_penalty, request.frequency_penalty) < 0,
    lambda request: request.temperature > 1 and not 0 < request.top_k <= EXACT,  # much of the mass may lie elsewhere
)


def suffices(pieces: Sequence[Piece]) -> bool:
    """Return whether the likeliest tokens are all that a step looks at: one sequence alone, and nothing in its way."""
    return len(pieces) == 1 and not any(needs(pieces[0].sequence.request) for needs in _NEEDS_ALL)


def _rounded(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights as the kernel wants them, and the scale and zero of each group."""
    rows, columns = weight.shape
    packed = torch.empty(rows, columns // 2, dtype=torch.uint8)
    scales = torch.zeros(columns // group, rows, 2, dtype=torch.bfloat16)
    # A part at a time: a copy of a whole head in four bytes a weight would be the largest thing in memory.
    for start in range(0, rows, _PART):
        part = weight[start : start + _PART].float().unflatten(1, (-1, group))
        # Rounded first and then used, so that its rounding is no error.
        scale = (part.abs().amax(2) / _LARGEST).clamp_(min=_SMALLEST_SCALE).bfloat16()
        whole = (part / scale.float().unsqueeze(2)).round_().clamp_(-_LARGEST - 1, _LARGEST).flatten(1).int() + 8
        packed[start : start + _PART] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole, 1)
        scales[:, start : start + _PART, 0] = scale.t()
    return packed, scales


def _top(logits: torch.Tensor, count: int) -> torch.Tensor:
    """Return the places of the `count` largest, and of some that are hardly smaller.

    The row is folded into layers, so that the largest of each fold take one fast pass.  What is as large as the
    `count`-th of those lies in the folds with the largest; to look for it there is faster than to sort.
    """
    folded = logits.view(_OUT, -1)
    largest, folds = folded.amax(0).topk(count, sorted=False)
    layer, fold = (folded.index_select(1, folds) >= largest.amin()).nonzero().unbind(1)
    return layer * folded.shape[1] + folds[fold]


def _unusable() -> str | None:
    """Return what is wrong with the private operators here, or None."""
    try:
        with torch.inference_mode():
            # Not random: what is found out about a machine must not depend on the time of day.
            weight = torch.arange(512 * 128).mul(7919).remainder(1009).sub(504).div(504).view(512, 128).bfloat16()
            head = ScannedHead(weight, nn.Identity(), 8)
            head.enough = True
            row = torch.linspace(-1, 1, head.in_features, dtype=torch.bfloat16).view(1, 1, -1)
            found, expected = head(row), functional.linear(row, weight)
            if not (found - expected).float().norm() < 0.2 * expected.float().norm():  # also when it is no number
                return "its operators gave a wrong result"
            if not torch.allclose(found.amax(), expected.amax(), rtol=0.02):
                return "its operators lose the largest"
    except Exception as error:
        # Whatever a private operator does when it changes, the other head is still there.
        return f"{type(error).__name__}: {error}"
    return None

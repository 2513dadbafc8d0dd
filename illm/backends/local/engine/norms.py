"""Root mean square norms in one operator where Transformers takes seven.

A decode step has over a hundred norms of one row each, and what they cost is the number of operators.  What the
operator gives is the same to the last bit, or the model's own norm stays: that is tried for each kind.  Where weights
are rounded anyway (`quantize`), the last bit is not worth that operator's price: it is a chain of its own.
"""

import inspect
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_ROWS = (1, 5)
_SIZES = (1e-2, 1.0, 1e2)


class FusedNorm(nn.Module):  # type: ignore[misc]  # torch is Any to the type checker
    """A norm over the last dimension, computed in float32.

    Args:
        weight: `(dim,)`, the model's; `(heads, dim)` for rows of heads with weights of their own.
        eps: what is added to the mean square.
        scale: of the same shape, float32, to multiply by before the result gets the input's type; None to multiply by
            `weight` after that.
    """

    def __init__(self, weight: nn.Parameter, eps: float, scale: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps
        self._shape = tuple(weight.shape[-1:])
        self.scale = scale
        self._alike = None if weight.dim() > 1 else scale

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        # Two types in one call would be slower, and PyTorch says so each time.
        normed = functional.rms_norm(rows.float(), self._shape, self._alike, self.eps)
        if self.scale is None:
            return self.weight * normed.to(rows.dtype)
        return (normed if self._alike is not None else normed.mul_(self.scale)).to(rows.dtype)


class LooseNorm(nn.Module):  # type: ignore[misc]  # torch is Any to the type checker
    """A norm whose sum of squares is added up in another order: right to rounding, and half as long for one row.

    Args:
        norm: what it stands for.

    Attributes:
        scale: `(dim,)` or `(heads, dim)` float32, what to multiply by.
        least: what a length is made larger by, as the other side of a right angle.
    """

    def __init__(self, norm: FusedNorm) -> None:
        super().__init__()
        self._exact = (norm,)  # not as a child: it is no part of the model any more
        self.weight = norm.weight
        self.eps = norm.eps
        root = math.sqrt(norm.weight.shape[-1])
        scale = norm.weight.detach().float() if norm.scale is None else norm.scale
        # With n numbers of length l: 1 / sqrt(l * l / n + eps) = sqrt(n) / hypot(l, sqrt(n * eps)).
        self.scale = scale * root
        self.least = torch.tensor(root * math.sqrt(norm.eps), dtype=torch.float32)

    @property
    def exact(self) -> FusedNorm:
        """What it stands for."""
        return self._exact[0]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        # A copy, as it is worked in: `float` gives float32 back as it is.
        wide = rows.to(torch.float32, copy=True)
        length = torch.linalg.vector_norm(wide, 2, -1, keepdim=True)
        return wide.div_(length.hypot_(self.least)).mul_(self.scale).to(rows.dtype)


def over_heads(*norms: tuple[Any, int]) -> FusedNorm | LooseNorm:
    """Return one norm for heads that stand side by side, `(..., heads, dim)`.

    Args:
        norms: each with how many heads it is for.

    Raises:
        TypeError: they are not all fused, or all loose.
        ValueError: they differ in more than their weights.
    """
    kinds = {type(norm) for norm, _ in norms}
    if kinds == {LooseNorm}:
        exact = over_heads(*((norm.exact, heads) for norm, heads in norms))
        return LooseNorm(exact)
    if kinds != {FusedNorm}:
        raise TypeError("their norms are not of a kind that is known here")
    if len({(norm.eps, norm.scale is None, tuple(norm.weight.shape)) for norm, _ in norms}) > 1:
        raise ValueError("their norms are not alike")
    weight = torch.cat([norm.weight.detach().expand(heads, -1) for norm, heads in norms])
    scales = [norm.scale for norm, _ in norms]
    scale = None if scales[0] is None else torch.cat([norm.scale.expand(heads, -1) for norm, heads in norms])
    return FusedNorm(weight, norms[0][0].eps, scale)


def loosen_norms(model: Any) -> int:
    """Replace the fused norms by loose ones, in place, and return how many; for a model that is rounded anyway."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is FusedNorm
    ]
    loose: dict[int, LooseNorm] = {}
    with torch.inference_mode():
        for parent, name, child in found:
            setattr(parent, name, loose.setdefault(id(child), LooseNorm(child)))
    return len(loose)


def fuse_norms(model: Any) -> int:
    """Replace the model's norms on the CPU that are of a known kind, in place, and return how many."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child).__name__.endswith("RMSNorm") and getattr(child, "weight", None) is not None
    ]
    fused: dict[int, FusedNorm | None] = {}
    with torch.inference_mode():
        for parent, name, child in found:
            if id(child) not in fused:
                fused[id(child)] = _fused(child)
            if (norm := fused[id(child)]) is not None:
                setattr(parent, name, norm)
    return sum(norm is not None for norm in fused.values())


def _fused(norm: Any) -> FusedNorm | None:
    weight = norm.weight
    eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    if weight.device.type != "cpu" or weight.dim() != 1 or not isinstance(eps, float):
        return None
    if len(inspect.signature(norm.forward).parameters) != 1:
        return None  # some are also given a gate
    try:
        for scale in (None, 1.0 + weight.detach().float()):
            candidate = FusedNorm(weight, eps, scale)
            if all(_same(norm, candidate, rows, size) for rows in _ROWS for size in _SIZES):
                return candidate
    except Exception:
        # Whatever a foreign norm wants to be called with: it stays.
        return None
    return None


def _same(norm: Any, candidate: FusedNorm, rows: int, size: float) -> bool:
    length = len(norm.weight)
    # Not random: what is found out about a model must not depend on the time of day.
    sample = (torch.arange(rows * length).mul(7919).remainder(1009).float() / 504.5 - 1).mul(size)
    sample = sample.view(1, rows, length).to(norm.weight.dtype)
    return bool(torch.equal(norm(sample), candidate(sample)))

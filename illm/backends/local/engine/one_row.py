"""Linear layers that read less for one row alone.

One stream is bound by how much is read for a token, and PyTorch's int4 kernel reads nearly as fast as memory gives,
while its kernels for int8 weights and float activations do not.  So int8 weights are given to it as two int4 matrices,
`16 * high + low`, side by side: the row comes twice, and the groups of the one half have sixteen times the scale of the
other.  Activations are not rounded, so little is lost.  For more rows than one that kernel is the slower one; they go
where they went before.

The operators are private to PyTorch, so they are tried on a small example first.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from illm.backends.local.engine.joined import JoinedLinear, Siblings, together
from illm.backends.local.engine.packed import PackedLinear

_log = logging.getLogger(__name__)

_GROUP = 64  # weights that share a scale
_LARGEST = 119  # 16 * 7 + 7: what two signed int4 can say
_OUT = 16  # the kernel's block of outputs
_SMALLEST_SCALE = 1e-12
_EXACT = (PackedLinear, JoinedLinear)


class SplitInt8:
    """The product of a row and int8 weights.

    Args:
        weight: `(out, in)`, floating; `out` and `in` must suit the kernel, see `suits`.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        rows, columns = weight.shape
        groups = weight.detach().float().view(rows, columns // _GROUP, _GROUP)
        # Rounded first and then used, so that its rounding is no error.
        scales = (groups.abs().amax(2) / _LARGEST).clamp_(min=_SMALLEST_SCALE).bfloat16()
        whole = (groups / scales.float().unsqueeze(2)).round_().clamp_(-_LARGEST, _LARGEST).int().view(rows, columns)
        high = (whole + 8) >> 4
        nibbles = torch.cat((high, whole - 16 * high), 1) + 8
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(nibbles, 1)
        both = torch.cat((16 * scales, scales), 1).t()
        self._scales = torch.stack((both, torch.zeros_like(both)), 2).contiguous()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `(..., out)` for bfloat16 `(..., in)`."""
        return self.doubled(torch.cat((rows, rows), -1).view(-1, 2 * rows.shape[-1])).view(*rows.shape[:-1], -1)

    def doubled(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `(rows, out)` for bfloat16 `(rows, 2 * in)`, each row twice behind itself."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self._weight, _GROUP, self._scales)


class OneRowLinear(nn.Module):  # type: ignore[misc]  # torch is Any to the type checker
    """A packed layer with int8 weights beside it, for one row alone.

    Args:
        packed: the exact layer, without bias; it becomes part of this one.
        siblings: int8 weights, also of the layers that are given the same row; None for its own alone.
        which: the layer's place among them.

    Attributes:
        most: for up to how many rows the int8 weights are used; more than one only to measure what they cost.
        packed: the exact layer.
        siblings: the layers it is one product with, whose whole is a `SplitInt8`.
    """

    most = 1

    def __init__(self, packed: PackedLinear | JoinedLinear, siblings: Siblings | None = None, which: int = 0) -> None:
        super().__init__()
        self.in_features = packed.in_features
        self.out_features = packed.out_features
        self.packed = packed
        self.siblings = _split([packed]) if siblings is None else siblings
        self._which = which

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if not 0 < rows.numel() <= self.most * self.in_features:
            return self.packed(rows)
        return self.siblings.product(rows, self._which)


def lighten(model: Any) -> int:
    """Give packed layers of the model's decoder int8 weights for one row, in place, and return how many got them."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    found = [
        (
            parent,
            {name: child for name, child in parent.named_children() if type(child) in _EXACT and suits(child)},
        )
        for parent in decoder.modules()
    ]
    if not any(children for _, children in found):
        return 0
    if (reason := _unusable()) is not None:
        _log.warning("int8 is not used for the body: %s", reason)
        return 0
    with torch.inference_mode():
        for parent, children in found:
            for names in together(children):
                siblings = _split([children[name] for name in names])
                for which, name in enumerate(names):
                    setattr(parent, name, OneRowLinear(children[name], siblings, which))
    return sum(len(children) for _, children in found)


def _split(layers: Sequence[PackedLinear | JoinedLinear]) -> Siblings:
    weight = torch.cat([layer.weight() for layer in layers])
    return Siblings(SplitInt8(weight), [layer.out_features for layer in layers])


def suits(layer: PackedLinear | JoinedLinear) -> bool:
    """Return whether the kernel can have weights of this layer's shape."""
    return not (layer.biased or layer.in_features % _GROUP or layer.out_features % _OUT)


def _unusable() -> str | None:
    """Return what is wrong with the private operators here, or None."""
    try:
        with torch.inference_mode():
            linear = nn.Linear(2 * _GROUP, 3 * _OUT, bias=False, dtype=torch.bfloat16)
            row = torch.linspace(-1, 1, linear.in_features, dtype=torch.bfloat16).view(1, -1)
            expected = functional.linear(row, linear.weight)
            if not torch.allclose(SplitInt8(linear.weight)(row), expected, rtol=0.05, atol=0.05):
                return "its operators gave a wrong result"
    except Exception as error:
        # Whatever a private operator does when it changes, the packed layer is still there.
        return f"{type(error).__name__}: {error}"
    return None

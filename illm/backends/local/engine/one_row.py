"""Linear layers that read less for one row alone.

One stream is bound by how much is read for a token, and PyTorch's int4 kernel reads nearly as fast as memory gives,
while its kernels for int8 weights and float activations do not.  So int8 weights are given to it as two int4 matrices,
`16 * high + low`, side by side: the row comes twice, and the groups of the one half have sixteen times the scale of the
other.  Activations are not rounded, so little is lost.  For more rows than one that kernel is the slower one; they go
where they went before.

For one row a call costs nearly as much as its product, so layers that are given the same row are one product.

The operators are private to PyTorch, so they are tried on a small example first.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from illm.backends.local.engine.packed import PackedLinear

_log = logging.getLogger(__name__)

_GROUP = 64  # weights that share a scale
_LARGEST = 119  # 16 * 7 + 7: what two signed int4 can say
_OUT = 16  # the kernel's block of outputs
_SMALLEST_SCALE = 1e-12
_ALIKE = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


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
        """Return `(rows, out)` for bfloat16 `(rows, in)`."""
        return self.doubled(torch.cat((rows, rows), 1))

    def doubled(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `(rows, out)` for bfloat16 `(rows, 2 * in)`, each row twice behind itself."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self._weight, _GROUP, self._scales)


class Siblings:
    """Layers that are given the same row one after the other: their product is made when the first is asked.

    Args:
        layers: in the order in which a model asks them; without bias.

    Attributes:
        split: all their weights.
    """

    def __init__(self, layers: Sequence[PackedLinear]) -> None:
        self.split = SplitInt8(torch.cat([layer.weight() for layer in layers]))
        self._sizes = [layer.out_features for layer in layers]
        self._rows: torch.Tensor | None = None
        self._made: tuple[torch.Tensor, ...] = ()

    def product(self, rows: torch.Tensor, which: int) -> torch.Tensor:
        """Return what one of the layers makes of `rows`, `(rows, in)`."""
        if which == 0 or rows is not self._rows:
            self._rows = rows
            self._made = self.split(rows.view(-1, rows.shape[-1])).split(self._sizes, 1)
        made = self._made[which]
        if which == len(self._sizes) - 1:
            self._rows, self._made = None, ()
        return made


class OneRowLinear(nn.Module):  # type: ignore[misc]  # torch is Any to the type checker
    """A packed layer with int8 weights beside it, for one row alone.

    Args:
        packed: the exact layer, without bias; it becomes part of this one.
        siblings: its weights, and those of the layers that are given the same row; None for its own alone.
        which: the layer's place among them.

    Attributes:
        most: for up to how many rows the int8 weights are used; more than one only to measure what they cost.
        siblings: the layers it is one product with.
    """

    most = 1

    def __init__(self, packed: PackedLinear, siblings: Siblings | None = None, which: int = 0) -> None:
        super().__init__()
        self.in_features = packed.in_features
        self.out_features = packed.out_features
        self._packed = packed
        self.siblings = Siblings([packed]) if siblings is None else siblings
        self._which = which

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if not 0 < rows.numel() <= self.most * self.in_features:
            return self._packed(rows)
        return self.siblings.product(rows, self._which).view(*rows.shape[:-1], self.out_features)


def lighten(model: Any) -> int:
    """Give packed layers of the model's decoder int8 weights for one row, in place, and return how many got them."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    found = [
        (
            parent,
            {name: child for name, child in parent.named_children() if type(child) is PackedLinear and suits(child)},
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
            for names in _together(children):
                siblings = Siblings([children[name] for name in names])
                for which, name in enumerate(names):
                    setattr(parent, name, OneRowLinear(children[name], siblings, which))
    return sum(len(children) for _, children in found)


def _together(children: Mapping[str, PackedLinear]) -> list[tuple[str, ...]]:
    """Return the names of layers by whether they are given the same row."""
    known = [names for names in _ALIKE if all(name in children for name in names)]
    known = [names for names in known if len({children[name].in_features for name in names}) == 1]
    return known + [(name,) for name in children if not any(name in names for names in known)]


def suits(layer: PackedLinear) -> bool:
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

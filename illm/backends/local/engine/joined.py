"""Layers that are given the same rows, as one product.

For few rows a call costs nearly as much as its product.  A model asks its layers one after the other all the same: the
first that is asked computes for all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from illm.backends.local.engine.packed import PackedLinear

_ALIKE = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_ROWS = (1, 2, 7, 33)  # what the equality of bits is tried with


class Siblings:
    """The common product, made when the first layer is asked.

    Args:
        whole: gives `(..., sum(sizes))` for `(..., in)`.
        sizes: the layers' outputs, in the order in which a model asks them.

    Attributes:
        whole: as given.
    """

    def __init__(self, whole: Callable[[torch.Tensor], torch.Tensor], sizes: Sequence[int]) -> None:
        self.whole = whole
        self._sizes = list(sizes)
        self._rows: torch.Tensor | None = None
        self._made: tuple[torch.Tensor, ...] = ()

    def product(self, rows: torch.Tensor, which: int) -> torch.Tensor:
        """Return what one of the layers makes of `rows`, `(..., in)`."""
        if which == 0 or rows is not self._rows:
            self._rows = rows
            self._made = self.whole(rows).split(self._sizes, -1)
        made = self._made[which]
        if which == len(self._sizes) - 1:
            self._rows, self._made = None, ()
        return made


class JoinedLinear(nn.Module):  # type: ignore[misc]  # torch is Any to the type checker
    """One of several layers without bias that are one packed product.

    Args:
        siblings: all of them; `siblings.whole` is a `PackedLinear`.
        out: the outputs of this one.
        which: its place among them.
    """

    biased = False

    def __init__(self, siblings: Siblings, out: range, which: int) -> None:
        super().__init__()
        self.siblings = siblings
        self.in_features = siblings.whole.in_features  # type: ignore[attr-defined]
        self.out_features = len(out)
        self._out, self._which = out, which

    def weight(self) -> torch.Tensor:
        """Return a plain copy of this layer's weights, `(out_features, in_features)`."""
        whole: torch.Tensor = self.siblings.whole.weight()  # type: ignore[attr-defined]
        return whole[self._out.start : self._out.stop]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.siblings.product(rows, self._which)


def join(layers: Any) -> None:
    """Join packed layers that are given the same rows, in place, where each gives the same bits as before.

    Args:
        layers: modules whose children's names tell which of them are given the same rows.
    """
    with torch.inference_mode():
        for layer in layers:
            for parent in list(layer.modules()):
                children = {name: child for name, child in parent.named_children() if type(child) is PackedLinear}
                for names in together(children):
                    if len(names) > 1 and (joined := _joined([children[name] for name in names])):
                        for name, part in zip(names, joined, strict=True):
                            setattr(parent, name, part)


def together(children: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the names of layers by whether they are given the same rows, in the order in which they are asked."""
    known = [names for names in _ALIKE if all(name in children for name in names)]
    known = [names for names in known if len({children[name].in_features for name in names}) == 1]
    return known + [(name,) for name in children if not any(name in names for names in known)]


def _joined(layers: Sequence[PackedLinear]) -> list[JoinedLinear]:
    """Return the layers as parts of one product; none where that is not the same."""
    if any(layer.biased for layer in layers):
        return []
    whole = PackedLinear.of(torch.cat([layer.weight() for layer in layers]))
    for count in _ROWS:
        # Not random: what is found out about a model must not depend on the time of day.
        rows = torch.arange(count * whole.in_features).mul(7919).remainder(1009).sub(504).div(504)
        rows = rows.view(1, count, -1).bfloat16()
        if not torch.equal(whole(rows), torch.cat([layer(rows) for layer in layers], -1)):
            return []
    siblings = Siblings(whole, [layer.out_features for layer in layers])
    parts, at = [], 0
    for which, layer in enumerate(layers):
        parts.append(JoinedLinear(siblings, range(at, at + layer.out_features), which))
        at += layer.out_features
    return parts

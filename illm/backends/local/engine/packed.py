"""Linear layers with their weights laid out for the CPU's bfloat16 instructions.

Decoding reads every weight for every token, and oneDNN reads its own blocked layout markedly faster than rows.  The
operators are private to PyTorch, so they are tried on a small example first, and where they are missing or wrong the
model stays as it is.
"""

import logging
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_log = logging.getLogger(__name__)


class PackedLinear(nn.Module):  # type: ignore[misc]  # torch is Any to the type checker
    """A bfloat16 `nn.Linear` for inference on a CPU.

    Args:
        linear: the layer to take the weights of; it is not changed.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._take(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())

    @classmethod
    def of(cls, weight: torch.Tensor) -> "PackedLinear":
        """Return a layer without bias of plain weights, `(out_features, in_features)`."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._take(weight, None)
        return layer

    def _take(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.out_features, self.in_features = weight.shape
        # Not a buffer: the layout cannot be moved, saved or cast.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = bias

    @property
    def biased(self) -> bool:
        """Whether something is added."""
        return self._bias is not None

    def weight(self) -> torch.Tensor:
        """Return a plain copy of the weights, `(out_features, in_features)`."""
        return self._weight.to_dense()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")


def pack(model: Any, but: nn.Linear | None = None) -> int:
    """Replace the model's bfloat16 linear layers by packed ones, in place, and return how many; `but` stays.

    A weight that also serves as the embedding table stays there as it was; every other plain copy is freed.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
        and child is not but
        and child.weight.dtype is torch.bfloat16
        and child.weight.device.type == "cpu"
    ]
    if not found:
        return 0
    if (reason := _unusable()) is not None:
        _log.warning("packed bfloat16 layers are not used: %s", reason)
        return 0
    with torch.inference_mode():
        for parent, name, child in found:
            setattr(parent, name, PackedLinear(child))
    return len(found)


def _unusable() -> str | None:
    """Return what is wrong with the private operators here, or None."""
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return "the processor has no bfloat16 instructions for them"
        with torch.inference_mode():
            linear = nn.Linear(64, 48, dtype=torch.bfloat16)
            rows = torch.linspace(-1, 1, 5 * 64, dtype=torch.bfloat16).view(1, 5, 64)
            packed = PackedLinear(linear)
            for count in (0, 1, 5):
                expected = functional.linear(rows[:, :count], linear.weight, linear.bias)
                if not torch.allclose(packed(rows[:, :count]), expected, rtol=0.02, atol=0.02):
                    return "they gave a wrong result"
    except Exception as error:
        # Whatever a private operator does when it changes, the plain layer is still there.
        return f"{type(error).__name__}: {error}"
    return None

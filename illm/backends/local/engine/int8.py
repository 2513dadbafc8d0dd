"""The head in eight bits: the widest matrix of a small model, read once for every token.

Weights are rounded to int8 by output channel, activations to uint8 by row with the zero point in the middle (oneDNN's
kernel for signed activations is hundreds of times slower).  Sums are whole numbers and therefore exact, and each row
has a scale of its own: what a row gives depends on nothing beside it.  Of the body `one_row` takes care; in small
matrices the rounding of activations costs what the smaller weights save.

The operators are private to PyTorch, so they are tried on a small example first.
"""

import logging
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_log = logging.getLogger(__name__)

_MIDDLE = 128  # the zero point
_LARGEST = 127
_SMALLEST_SCALE = 1e-12  # a row of zeros has to be divided by something


class Int8Linear(nn.Module):  # type: ignore[misc]  # torch is Any to the type checker
    """A linear layer for inference on a CPU, with int8 weights.

    Args:
        linear: the layer to take the weights of; it is not changed.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        weight = linear.weight.detach()
        scales = torch.empty(self.out_features, dtype=torch.float32)
        whole = torch.empty(weight.shape, dtype=torch.int8)
        # A part at a time: a float copy of a whole head would be the largest thing in memory.
        for rows in range(0, self.out_features, 1 << 14):
            part = weight[rows : rows + (1 << 14)].float()
            scale = part.abs().amax(1).clamp_(min=_SMALLEST_SCALE) / _LARGEST
            scales[rows : rows + (1 << 14)] = scale
            whole[rows : rows + (1 << 14)] = (part / scale.unsqueeze(1)).round_()
        self._weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self._scales = scales
        self._zero_points = torch.zeros(self.out_features, dtype=torch.int32)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        flat = rows.reshape(-1, self.in_features)
        if not len(flat):
            return rows.new_empty(*rows.shape[:-1], self.out_features)
        # Rounded first and used for both ways, so that its rounding is no error; and of the type of what it multiplies,
        # as multiplying two types costs more than the matrix.
        scale = (flat.abs().amax(1, keepdim=True).float() / _LARGEST).clamp_(min=_SMALLEST_SCALE).bfloat16()
        whole = (flat / scale.float()).round_().clamp_(-_LARGEST, _LARGEST).add_(_MIDDLE).to(torch.uint8)
        out = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, _MIDDLE, self._weight, self._scales, self._zero_points,
            None, 1.0, 0, torch.bfloat16, "none", [], "",
        )  # fmt: skip
        out = out.to(rows.dtype).mul_(scale.to(rows.dtype))
        if self._bias is not None:
            out = out + self._bias
        return out.view(*rows.shape[:-1], self.out_features)


def head_for(model: Any, quantize: str) -> nn.Linear | None:
    """Return the layer that `quantize` is about, or None where nothing is to be done or nothing can be."""
    if quantize == "none":
        return None
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        reason: str | None = "the model has no linear head"
    elif head.weight.device.type != "cpu":
        reason = f"it is for the CPU, and the model is on {head.weight.device.type}"
    else:
        reason = _unusable()
    if reason is None:
        return head
    _log.warning("%s is not used: %s; the model stays exact", quantize, reason)
    return None


def quantize_head(model: Any, head: nn.Linear) -> None:
    """Replace the model's head by an int8 one, in place; an embedding table of the same weights stays as it was."""
    with torch.inference_mode():
        small = Int8Linear(head)
    replace_head(model, head, small)


def replace_head(model: Any, head: nn.Module, by: nn.Module) -> None:
    """Put `by` in the place of a model's head."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is head:
                setattr(parent, name, by)


def _unusable() -> str | None:
    """Return what is wrong with the private operators here, or None."""
    try:
        with torch.inference_mode():
            linear = nn.Linear(64, 48, dtype=torch.bfloat16)
            small = Int8Linear(linear)
            rows = torch.linspace(-1, 1, 5 * 64, dtype=torch.bfloat16).view(1, 5, 64)
            for count in (0, 1, 5):
                expected = functional.linear(rows[:, :count], linear.weight, linear.bias)
                if not torch.allclose(small(rows[:, :count]), expected, rtol=0.05, atol=0.05):
                    return "its operators gave a wrong result"
    except Exception as error:
        # Whatever a private operator does when it changes, the plain layer is still there.
        return f"{type(error).__name__}: {error}"
    return None

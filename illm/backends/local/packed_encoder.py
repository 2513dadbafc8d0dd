"""An encoder with its linear layers in oneDNN's own layout, float32 as well, where it still computes the same.

What makes float32 products by default need not know the processor: on one of AMD's, a pass over one short text took
half as long again.  Other people's modelling code may reach past a layer for its weights, so the whole model is tried.
"""

import logging
from typing import Any

import torch
from torch import nn

from illm.backends.local.engine.packed import PackedLinear

_log = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""How far a state may be from what it was, of itself and beside it, for the formats that gain."""

_SHAPES = ((1, 5), (3, 4))


def pack_encoder(model: Any, device: str) -> int:
    """Replace a model's linear layers by packed ones, in place.

    Args:
        model: a Transformers model that is given `input_ids` and `attention_mask`, in eval mode.
        device: where it is; only a CPU has anything to gain.

    Returns:
        How many layers; 0 where the model would fail or compute something else, which is then left as it was.
    """
    tolerance = _TOLERANCE.get(model.dtype)
    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and child.weight.dtype is model.dtype
    ]
    if device != "cpu" or not layers or tolerance is None:
        return 0
    try:
        with torch.inference_mode():
            if model.dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
                return 0
            expected = _states(model)
            for parent, name, child in layers:
                setattr(parent, name, PackedLinear(child))
            pairs = zip(_states(model), expected, strict=True)
            if all(torch.allclose(now, then, rtol=tolerance, atol=tolerance) for now, then in pairs):
                return len(layers)
        reason = "they gave a wrong result"
    except Exception as error:  # the operators are private to PyTorch, and the code of a model is its own
        reason = f"{type(error).__name__}: {error}"
    for parent, name, child in layers:
        setattr(parent, name, child)
    _log.warning("packed layers are not used: %s", reason)
    return 0


def _states(model: Any) -> list[torch.Tensor]:
    """Return what a model makes of a few token ids, in passes of different shapes."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    found = []
    for shape in _SHAPES:
        ids = (torch.arange(shape[0] * shape[1]) * 7 + 3).remainder(vocabulary).view(shape)
        found.append(model(input_ids=ids, attention_mask=torch.ones_like(ids))[0].float())
    return found

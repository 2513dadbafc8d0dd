"""From the states of a sentence's tokens to one vector.

Every function takes `states` of shape (batch, tokens, width), float32, and `mask` of shape (batch, tokens, 1), 1.0 for
tokens and 0.0 for padding, which lies on the right.  It returns (batch, width).  The definitions are those of
sentence-transformers, whose files name them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from illm.backends.local.sentence_files import Recipe
from illm.errors import GatewayError, Kind


def first(states: Tensor, mask: Tensor) -> Tensor:
    """The first token's state."""
    return states[:, 0]


def last(states: Tensor, mask: Tensor) -> Tensor:
    """The last token's state."""
    index = mask.sum(1, keepdim=True).long() - 1
    return states.gather(1, index.expand(-1, 1, states.shape[-1])).squeeze(1)


def maximum(states: Tensor, mask: Tensor) -> Tensor:
    """The largest value of each feature."""
    return states.masked_fill(mask == 0, float("-inf")).amax(1)


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens."""
    return (states * mask).sum(1) / mask.sum(1)


def mean_sqrt(states: Tensor, mask: Tensor) -> Tensor:
    """The sum over the tokens, divided by the square root of their number."""
    return (states * mask).sum(1) / mask.sum(1).sqrt()


def weighted_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens, later ones counting more: the n-th counts n times."""
    weights = mask * torch.arange(1, states.shape[1] + 1, device=states.device, dtype=states.dtype).view(1, -1, 1)
    return (states * weights).sum(1) / weights.sum(1)


POOLERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": first,
    "max": maximum,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt,
    "weightedmean": weighted_mean,
    "lasttoken": last,
}

ACTIVATIONS: dict[str, Callable[[], Any]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "Sigmoid": nn.Sigmoid,
}


class Head:
    """A recipe's steps after the transformer, except normalisation.

    Args:
        recipe: what the model's files say.
        served: the model's id, for errors.
        device: where the dense layers go.

    Raises:
        GatewayError: `MODEL_LOAD_FAILED` for dense layers that cannot be loaded.
    """

    def __init__(self, recipe: Recipe, served: str, device: str) -> None:
        self._poolers = [POOLERS[mode] for mode in recipe.modes]
        try:
            layers = [_dense(dense.directory, ACTIVATIONS[dense.activation]()) for dense in recipe.dense]
        except Exception as error:  # no such activation, no such file, not safetensors
            raise GatewayError(
                Kind.MODEL_LOAD_FAILED, f"The embedding model '{served}' has a dense layer that cannot be loaded."
            ) from error
        self._layers = nn.Sequential(*layers).to(device).eval()
        self._width: int | None = layers[-1][0].out_features if layers else None

    def width(self, states: int) -> int:
        """Return the vectors' width for token states of width `states`."""
        return self._width or states * len(self._poolers)

    def __call__(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the vectors, (batch, width); arguments as for the functions above."""
        vectors: Tensor = self._layers(torch.cat([pool(states, mask) for pool in self._poolers], dim=-1))
        return vectors


def _dense(directory: Path, activation: Any) -> Any:
    from safetensors.torch import load_file

    weights = load_file(directory / "model.safetensors")
    weight, bias = weights["linear.weight"].float(), weights.get("linear.bias")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.load_state_dict({"weight": weight} | ({"bias": bias.float()} if bias is not None else {}))
    return nn.Sequential(layer, activation)

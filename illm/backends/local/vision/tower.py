"""Pictures become rows of embeddings, and the last few of them are remembered.

Remembering serves choices that share a prompt, conversations that show their pictures again with every turn, and
prompts that are computed in chunks or a second time.  It is bounded, so a picture may have to be looked at twice.
"""

import inspect
from collections import OrderedDict
from typing import Any

import torch

from illm.backends.local.engine.illustrated import Picture

REMEMBERED = 256 << 20
"""Bytes of rows."""


class VisionTower:
    """The vision part of a model.

    Args:
        model: a Transformers model for image-text-to-text.
        limit: bytes of rows to remember; the rows in use may be more.
    """

    def __init__(self, model: Any, *, limit: int = REMEMBERED) -> None:
        self._look = model.model.get_image_features
        self._device, self._dtype = model.device, model.dtype
        self.takes = frozenset(inspect.signature(self._look).parameters)
        self._limit = limit
        self._held = 0
        self._known: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def rows(self, picture: Picture) -> torch.Tensor:
        """Return `(picture.rows, hidden)`.

        Raises:
            ValueError: the model could not, or made another number of rows than its processor has placeholders for.
        """
        rows = self._known.pop(picture.key, None)
        if rows is None:
            rows = self._made(picture)
            self._held += rows.nbytes
        self._known[picture.key] = rows
        while self._held > self._limit and len(self._known) > 1:
            _, gone = self._known.popitem(last=False)
            self._held -= gone.nbytes
        return rows

    def _made(self, picture: Picture) -> torch.Tensor:
        given = {
            name: tensor.to(self._device, self._dtype if tensor.is_floating_point() else None)
            for name, tensor in picture.inputs.items()
        }
        try:
            with torch.inference_mode():
                made = self._look(**given, return_dict=True).pooler_output
                rows = torch.cat(tuple(made)) if isinstance(made, list | tuple) else made
                rows = rows.reshape(-1, rows.shape[-1])
        except Exception as error:  # a shape that the model stumbles over, or no memory: this picture's misfortune
            raise ValueError("the model cannot look at this picture") from error
        if len(rows) != picture.rows:
            raise ValueError(f"{len(rows)} rows for {picture.rows} placeholders")
        return rows

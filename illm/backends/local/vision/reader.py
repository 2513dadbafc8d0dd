"""Pixels become what a vision tower takes, and the tokens that stand for them in a prompt.

Both are the business of the model's processor.  It is asked for one picture at a time, so that memory holds one decoded
image and not a request's worth of them.
"""

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from illm.backends.local.engine.illustrated import Picture
from illm.backends.local.vision.decoding import decode
from illm.errors import GatewayError, Kind

# Each tile is looked at by itself, so a large image need not be looked at in one go.
_TILED = frozenset({"idefics3", "smolvlm"})

WAITING = 1 << 30
"""Bytes of pictures that may be held for requests that wait or are being read."""


@dataclass(frozen=True, slots=True)
class Looked:
    """One image, read.

    Args:
        pictures: it, or its tiles.
        ids: the tokens that stand for it, those around its placeholders included.
        inputs: what the vision tower takes for all of it.
        pixels: how many were decoded.
    """

    pictures: Sequence[Picture]
    ids: Sequence[int]
    inputs: Mapping[str, Any] = field(repr=False)
    pixels: int


class Budget:
    """How many bytes of pictures are held; they are given back when nobody refers to the picture any more.

    Args:
        limit: bytes; one request may hold more where it is alone.
    """

    def __init__(self, limit: int = WAITING) -> None:
        self._limit = limit
        # Re-entered where garbage is collected inside it, and a picture was part of that.
        self._lock = threading.RLock()
        self.held = 0

    def hold(self, picture: Any, size: int) -> None:
        """Count a picture's bytes for as long as it lives.

        Raises:
            GatewayError: `OVERLOADED` where too many are held already.
        """
        with self._lock:
            if self.held and self.held + size > self._limit:
                raise GatewayError(Kind.OVERLOADED, "Too many images wait to be looked at; try again later")
            self.held += size
        weakref.finalize(picture, self._give_back, size)

    def _give_back(self, size: int) -> None:
        with self._lock:
            self.held -= size


class PictureReader:
    """One model's way of taking pictures in.

    Args:
        processor: its Transformers processor: of images and text, without videos.
        model_type: the configuration's.
        takes: the names of what its vision tower is given.
        budget: see `Budget`.
    """

    def __init__(self, processor: Any, model_type: str, takes: frozenset[str], *, budget: Budget | None = None) -> None:
        self._processor = processor
        self._tiled = model_type in _TILED
        self._takes = takes
        self._budget = budget or Budget()
        self.placeholder = int(processor.tokenizer.convert_tokens_to_ids(processor.image_token))

    def read(self, data: bytes, encode: Callable[[str], list[int]], *, max_pixels: int) -> Looked:
        """Decode and prepare an image file.

        Args:
            data: the file.
            encode: text to token ids, placeholders and all.
            max_pixels: how many may be decoded for it.

        Raises:
            GatewayError: `INVALID_REQUEST` for a file that cannot be read or an image that the model cannot take,
                `OVERLOADED` where too many pictures are held.
        """
        image = decode(data, max_pixels=max_pixels)
        try:
            made = self._processor.image_processor(
                [image], return_tensors="pt", **getattr(self._processor, "images_kwargs", {})
            )
            text = self._processor.replace_image_token(made, 0)
        except Exception as error:  # each model's processor has its own way to say that a shape is impossible
            raise GatewayError(
                Kind.INVALID_REQUEST, f"the model cannot take an image of {image.width} by {image.height} pixels"
            ) from error
        ids = encode(text)
        inputs = {name: value for name, value in made.items() if name in self._takes}
        pictures = self._pictures(sha256(data).digest(), inputs, ids.count(self.placeholder))
        for picture in pictures:
            self._budget.hold(picture, sum(tensor.nbytes for tensor in picture.inputs.values()))
        return Looked(pictures, ids, inputs, image.width * image.height)

    def _pictures(self, key: bytes, inputs: Mapping[str, Any], rows: int) -> list[Picture]:
        if not self._tiled:
            return [Picture(key, inputs, rows)]
        tiles = inputs["pixel_values"].shape[1]
        if not inputs["pixel_values"].flatten(2).any(dim=2).all():
            # The model leaves a tile of nothing but zeros out, as if it were there to fill up a batch.
            raise GatewayError(Kind.INVALID_REQUEST, "the model cannot take an image with so dark a part")
        return [
            Picture(
                key + at.to_bytes(2, "big"),
                # Copied, or every tile would keep the whole image.
                {name: tensor[:, at : at + 1].clone() for name, tensor in inputs.items()},
                rows // tiles,
            )
            for at in range(tiles)
        ]

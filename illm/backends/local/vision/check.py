"""Does the engine say the same about a picture as the model itself?

Families differ in how a picture's tokens see each other, where they stand and at which layer they come in.  Instead of
a list of families that is never complete, one small picture is shown to both before the engine serves.
"""

import inspect
import logging
from base64 import b64encode
from io import BytesIO
from typing import Any, NamedTuple

import torch

from illm.backends.local.engine.architecture import UnsupportedModel
from illm.backends.local.engine.engine import Engine
from illm.backends.local.engine.sequence import SequenceRequest
from illm.backends.local.vision.prompt import VisionRenderer
from illm.backends.local.vision.reader import PictureReader
from illm.core.requests import Image, Message, Text

log = logging.getLogger(__name__)

_SIZE = (48, 32)
_COMPARED = 20
# Part of the spread of the log-probabilities, as in `engine.selfcheck`.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_LOW_PRECISION_TOLERANCE = 0.15

# What the check would find as well, but could not name.
_REFUSED = {
    "gemma3": "its attention over the tokens of an image is bidirectional",
    "gemma3n": "its attention over the tokens of an image is bidirectional",
    "gemma4": "its attention over the tokens of an image is bidirectional",
    "paligemma": "its attention over the tokens of an image is bidirectional",
    "mllama": "it looks at images by cross-attention",
    "qwen3_vl": "it brings images in at several layers",
    "qwen3_vl_moe": "it brings images in at several layers",
}


class Seen(NamedTuple):
    """A prompt with a picture, and the model's own log-probabilities of what comes next, `(vocabulary,)`."""

    prompt: list[int]
    expected: torch.Tensor


def refuse(model: Any) -> None:
    """Raise `UnsupportedModel` for a family that is known not to fit, or that has no pictures to look at."""
    if (reason := _REFUSED.get(model.config.model_type)) is not None:
        raise UnsupportedModel(reason)
    if not hasattr(getattr(model, "model", None), "get_image_features"):
        raise UnsupportedModel("it has no vision part that can be run by itself")


def reference(model: Any, renderer: VisionRenderer, reader: PictureReader) -> Seen:
    """Show a picture to the model as it is, with attention functions of its own."""
    data = _picture()
    image = Image(base64=b64encode(data).decode())
    prompt = renderer.chat((Message("user", (image, Text("What is this?"))),))
    ids = torch.tensor([prompt], device=model.device)
    given = {
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == reader.placeholder).int(),
        **{
            name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
            for name, tensor in renderer.look(data, max_pixels=_SIZE[0] * _SIZE[1]).inputs.items()
        },
    }
    known = inspect.signature(model.forward).parameters
    with torch.inference_mode():
        logits = model(
            input_ids=ids,
            **{name: tensor for name, tensor in given.items() if name in known},
            use_cache=False,
            logits_to_keep=1,
        ).logits
    return Seen(prompt, logits[0, -1].float().log_softmax(dim=-1))


def check(engine: Engine, seen: Seen, dtype: torch.dtype) -> None:
    """Show the same picture to the engine.

    Raises:
        UnsupportedModel: it says something else than rounding explains.
    """
    if len(seen.prompt) >= engine.context:
        log.warning("no room for a picture of %d tokens: the model was not checked with one", len(seen.prompt))
        return
    engine.add(SequenceRequest(id=-1, prompt=seen.prompt, max_new_tokens=1, temperature=0.0, logprobs=_COMPARED))
    outputs = []
    while engine.busy:
        outputs += engine.step()
    score = outputs[-1].score
    assert score is not None  # noqa: S101 - it was asked for
    ids = torch.tensor([token for token, _ in score.top], device=seen.expected.device)
    ours = torch.tensor([logprob for _, logprob in score.top], device=seen.expected.device)
    wrong = (ours - seen.expected[ids]).pow(2).mean().sqrt() / seen.expected.std().clamp(min=1e-6)
    exact = _TOLERANCE.get(dtype, _LOW_PRECISION_TOLERANCE)
    allowed = exact if engine.quantized == "none" else _LOW_PRECISION_TOLERANCE
    if not float(wrong) <= allowed:  # also when it is no number
        raise UnsupportedModel(f"it and the engine disagree about a picture (relative error {float(wrong):.2g})")


def _picture() -> bytes:
    from PIL import Image as Pixels

    gradient = Pixels.linear_gradient("L").resize(_SIZE)
    picture = Pixels.merge("RGB", (gradient, gradient.rotate(180), gradient))
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()

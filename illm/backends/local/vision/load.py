"""From a directory to a model that looks at pictures, and an engine over it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from illm.backends.local.conversion import Progress
from illm.backends.local.engine.architecture import UnsupportedModel
from illm.backends.local.engine.engine import Engine
from illm.backends.local.load import TextModel, load_text
from illm.backends.local.model_facts import DType, context_length
from illm.backends.local.sources import Source
from illm.backends.local.vision import check
from illm.backends.local.vision.prompt import VisionRenderer
from illm.backends.local.vision.reader import PictureReader
from illm.backends.local.vision.tower import VisionTower
from illm.errors import GatewayError, Kind

# SmolVLM's own wants a package for counting frames in words; with images alone the two do the same.
_STAND_INS = {"SmolVLMProcessor": "Idefics3Processor"}


def load_vision(
    source: Source,
    make_engine: Callable[[TextModel], Engine],
    *,
    device: str,
    dtype: DType | None = None,
    threads: int | None = None,
    max_pixels: int,
    progress: Progress,
) -> tuple[TextModel, Engine]:
    """Load a model for images and text, and its engine.

    Args:
        source: what to load.
        make_engine: makes an engine over the model's text part.
        device: as for `load_text`, like the others that it has.
        max_pixels: width times height of an image.

    Raises:
        GatewayError: `MODEL_NOT_FOUND` or `MODEL_LOAD_FAILED`.
        UnsupportedModel: the engine cannot drive this model with images.
    """
    seen: list[check.Seen] = []

    def make_renderer(model: Any, tokenizer: Any, vocabulary: int, directory: Path) -> VisionRenderer:
        try:
            check.refuse(model)
        except UnsupportedModel as error:  # while loading, where a reason would be taken for an accident
            raise GatewayError(Kind.MODEL_LOAD_FAILED, f"'{source.served}' cannot be run here: {error}") from error
        processor = load_processor(directory, model.config, tokenizer)
        tower = VisionTower(model)
        reader = PictureReader(processor, model.config.model_type, tower.takes)
        if processor.chat_template is not None:
            tokenizer.chat_template = processor.chat_template
        renderer = VisionRenderer(
            tokenizer,
            vocabulary,
            source.served,
            reader=reader,
            tower=tower,
            context=context_length(model.config, tokenizer),
            max_pixels=max_pixels,
            rope=getattr(model.model, "get_rope_index", None),
        )
        try:
            # Now, as the engine replaces the model's attention.
            seen.append(check.reference(model, renderer, reader))
        except GatewayError as error:
            raise GatewayError(
                Kind.MODEL_LOAD_FAILED, f"'{source.served}' could not be shown a picture: {error.message}"
            ) from error
        return renderer

    model = load_text(
        source, device=device, dtype=dtype, threads=threads, progress=progress, make_renderer=make_renderer
    )
    engine = make_engine(model)
    check.check(engine, seen[0], model.model.dtype)
    return model, engine


def load_processor(directory: Path, config: Any, tokenizer: Any) -> Any:
    """Return the processor of images and text in a directory, whatever else it could process.

    Images go through Pillow: torchvision, which would do as well, may be there without its compiled half.  Videos are
    left out, since their processors need it.

    Raises:
        ValueError: it needs more than an image processor and a tokenizer.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    where = {"local_files_only": True, "trust_remote_code": False}
    found = PROCESSOR_MAPPING[type(config)]
    found = getattr(transformers, _STAND_INS.get(found.__name__, found.__name__))
    parts = {
        "image_processor": transformers.AutoImageProcessor.from_pretrained(str(directory), backend="pil", **where),
        "tokenizer": tokenizer,
    }
    names = [name for name in found.get_attributes() if name != "video_processor"]
    if set(names) != set(parts):
        raise ValueError(f"its processor needs {', '.join(sorted(set(names) - set(parts)))}")
    still: Any = type(found.__name__, (found,), {"get_attributes": classmethod(lambda _: names)})
    said, _ = still.get_processor_dict(str(directory), **where)
    return still.from_args_and_dict([parts[name] for name in names], said)

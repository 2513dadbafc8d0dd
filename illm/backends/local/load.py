"""From a directory to a model that can run.  All torch work of a model, this included, belongs to one thread.

Safetensors (pickles only where the operator named the model), never code from the model's repository.  Weights that the
files lack are an error: Transformers would fill them with random numbers and say so in a log line that nobody reads.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from illm.backends.local.conversion import Progress
from illm.backends.local.model_facts import DType, context_length, eos_ids, pick_dtype, sampling_defaults
from illm.backends.local.prompt import PromptRenderer
from illm.backends.local.reasons import reason
from illm.backends.local.sources import Source, fetch, has_weights, kind_in, no_weights, read_json
from illm.backends.local.undisturbed import undisturbed
from illm.core.requests import Sampling
from illm.errors import GatewayError, Kind

log = logging.getLogger(__name__)

_CLASSES = {"text": "AutoModelForCausalLM", "vision": "AutoModelForImageTextToText"}


@dataclass(frozen=True, slots=True)
class TextModel:
    """A loaded language model and what an engine has to know about it.

    Args:
        served: the id clients use.
        model: the Transformers model, in eval mode, on its device, with the attention that the library picks for it.
        tokenizer: its tokenizer; go through `renderer` where there is one task for it.
        renderer: its way of writing prompts.
        context: how many tokens fit, prompt and answer together.
        eos: ids that end an answer.
        defaults: sampling that its generation_config.json asks for.
        vocabulary: how many token ids the model knows; the logits' width.
    """

    served: str
    model: Any
    tokenizer: Any
    renderer: PromptRenderer
    context: int
    eos: frozenset[int]
    defaults: Sampling
    vocabulary: int

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings that end an answer because the template cannot."""
        return self.renderer.stops


def load_text(
    source: Source,
    *,
    device: str,
    dtype: DType | None = None,
    threads: int | None = None,
    progress: Progress,
    make_renderer: Callable[[Any, Any, int, Path], PromptRenderer] | None = None,
) -> TextModel:
    """Load a language model, downloading or converting it first if it has to be.

    Args:
        source: what to load.
        device: torch's name for it (`cpu`, `cuda`, `mps`).
        dtype: of the weights; by default bfloat16 if the files are and the device is fast at it, else float32.
        threads: torch's threads; process-wide, but OpenMP keeps a pool for each calling thread.
        progress: told what is going on.
        make_renderer: makes another renderer than one for text, of model, tokenizer, vocabulary and directory; for a
            model that looks at images as well.

    Raises:
        GatewayError: `MODEL_NOT_FOUND` or `MODEL_LOAD_FAILED`.
    """
    source, directory = _ready(source, progress)
    kind = "text" if make_renderer is None else "vision"
    if kind_in(directory) == "vision" != kind:
        raise GatewayError(
            Kind.MODEL_LOAD_FAILED,
            f"'{source.served}' looks at images, which was not known before its files came; start once more.",
        )
    if kind_in(directory) != kind:
        raise GatewayError(Kind.MODEL_LOAD_FAILED, f"'{source.served}' is not a model that generates text.")
    _set_threads(threads)
    with failing_to_load(source.served), undisturbed():
        import transformers

        progress(f"loading {source.served}", None)
        where = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory), **where)
        model, info = getattr(transformers, _CLASSES[kind]).from_pretrained(
            str(directory),
            dtype=pick_dtype(directory, device, dtype),
            use_safetensors=_safetensors(directory, pickles=source.pickles),
            output_loading_info=True,
            **where,
        )
        _refuse_random(source.served, info["missing_keys"])
        model = model.to(device).eval()
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        if make_renderer is None:
            renderer = PromptRenderer(tokenizer, vocabulary, source.served)
        else:
            renderer = make_renderer(model, tokenizer, vocabulary, directory)
    return TextModel(
        served=source.served,
        model=model,
        tokenizer=tokenizer,
        renderer=renderer,
        context=context_length(model.config, tokenizer),
        eos=eos_ids(model.generation_config, tokenizer),
        defaults=sampling_defaults(read_json(directory / "generation_config.json")),
        vocabulary=vocabulary,
    )


def prepare_embedder(source: Source, progress: Progress) -> tuple[Source, Path]:
    """Return the source and its directory, fetched, and fit to be an embedder.

    Raises:
        GatewayError: `MODEL_LOAD_FAILED` for a language model whose files do not say that it embeds.
    """
    source, directory = _ready(source, progress)
    if kind_in(directory) == "text":
        raise GatewayError(
            Kind.MODEL_LOAD_FAILED, f"'{source.served}' generates text, and its files do not say that it embeds."
        )
    return source, directory


def load_encoder(
    served: str,
    directory: Path,
    *,
    device: str,
    dtype: DType | None = None,
    threads: int | None = None,
    pickles: bool = False,
    head: str = "AutoModel",
) -> tuple[Any, Any]:
    """Load an encoder and its tokenizer: what an embedder runs (without a head), or a cross-encoder.

    Args:
        served: the id clients use.
        directory: where it is.
        device: torch's name for it.
        dtype: see `pick_dtype`.
        threads: torch's threads, for the whole process.
        pickles: whether pickled weights will do.
        head: the class of Transformers that loads it.

    Raises:
        GatewayError: `MODEL_LOAD_FAILED`.
    """
    _set_threads(threads)
    with failing_to_load(served), undisturbed():
        import transformers

        where = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory), **where)
        model, info = getattr(transformers, head).from_pretrained(
            str(directory),
            dtype=pick_dtype(directory, device, dtype),
            use_safetensors=_safetensors(directory, pickles=pickles),
            output_loading_info=True,
            **where,
        )
        # Without a head, a pooler is that of a pre-training task: pooling is done elsewhere, its weights do not matter.
        headless = head == "AutoModel"
        _refuse_random(served, [key for key in info["missing_keys"] if not (headless and "pooler" in key)])
        return model.to(device).eval(), tokenizer


def prepare_listener(source: Source, progress: Progress) -> tuple[Source, Path]:
    """Return the source and its directory, fetched, and fit to turn speech into text.

    Raises:
        GatewayError: `MODEL_LOAD_FAILED` for a model that is no Whisper.
    """
    source, directory = _ready(source, progress)
    if kind_in(directory) != "audio":
        raise GatewayError(Kind.MODEL_LOAD_FAILED, f"'{source.served}' is not a model that listens to speech.")
    return source, directory


def load_whisper(source: Source, directory: Path, *, device: str, threads: int | None = None) -> tuple[Any, Any, Any]:
    """Load a Whisper model of Transformers, its tokenizer and its feature extractor.

    Raises:
        GatewayError: `MODEL_LOAD_FAILED`.
    """
    _set_threads(threads)
    with failing_to_load(source.served), undisturbed():
        from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

        where = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(str(directory), **where)
        extractor = WhisperFeatureExtractor.from_pretrained(str(directory), local_files_only=True)
        model, info = WhisperForConditionalGeneration.from_pretrained(
            str(directory),
            dtype=pick_dtype(directory, device, None),
            use_safetensors=_safetensors(directory, pickles=source.pickles),
            output_loading_info=True,
            local_files_only=True,
        )
        _refuse_random(source.served, info["missing_keys"])
        return model.to(device).eval(), tokenizer, extractor


def _ready(source: Source, progress: Progress) -> tuple[Source, Path]:
    source = fetch(source, progress)
    directory = source.directory
    if directory is None or not directory.is_dir():
        raise GatewayError(Kind.MODEL_NOT_FOUND, f"The files of '{source.served}' are gone.")
    config = read_json(directory / "config.json")
    if not config:
        raise GatewayError(Kind.MODEL_LOAD_FAILED, f"'{source.served}' has no config.json that can be read.")
    if not _anywhere(directory, source.pickles):
        raise GatewayError(Kind.MODEL_LOAD_FAILED, no_weights(source.served, pickles=source.pickles))
    if "auto_map" in config and not _native(config.get("model_type")):
        raise GatewayError(
            Kind.MODEL_LOAD_FAILED, f"'{source.served}' needs code from its own repository, which is never run."
        )
    return source, directory


def _anywhere(directory: Path, pickles: bool) -> bool:
    """Whether weights lie in the directory or, as in old sentence-transformers models, one below it."""
    below = (child for child in directory.iterdir() if child.is_dir())
    return any(has_weights(place, pickles=pickles) for place in (directory, *below))


def _safetensors(directory: Path, *, pickles: bool) -> bool:
    """What to tell the loader: nothing but safetensors, unless pickles will do and are all there is."""
    return not pickles or has_weights(directory)


def _native(model_type: Any) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _refuse_random(served: str, missing: list[str]) -> None:
    if missing:
        log.error("%s lacks weights: %s", served, ", ".join(sorted(missing)))
        raise GatewayError(Kind.MODEL_LOAD_FAILED, f"The files of '{served}' lack {len(missing)} of its weights.")


@contextmanager
def failing_to_load(served: str) -> Iterator[None]:
    """Whatever goes wrong inside is a failure to load; the log says what, the client is not shown our paths."""
    try:
        yield
    except GatewayError:
        raise
    except Exception as error:
        log.error("loading %s failed", served, exc_info=error)
        raise GatewayError(
            Kind.MODEL_LOAD_FAILED, f"The model '{served}' could not be loaded ({reason(error)})."
        ) from error

"""From a source to the work of a loaded model, whatever its kind; runs where the engine does.

Importing this costs no torch: each loader brings what its kind needs.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from illm.backends.local.answers import AnswerStyle
from illm.backends.local.frames import Note
from illm.backends.local.give_way import give_way
from illm.backends.local.grammar import GrammarCompiler
from illm.backends.local.progress import report_to
from illm.backends.local.sources import DEMO_EMBEDDER, DEMO_LISTENER, ModelKind, Source, kind_in, resolve_named
from illm.backends.local.work import Work
from illm.config import Config
from illm.errors import GatewayError, Kind

if TYPE_CHECKING:  # torch comes with the first model
    from illm.backends.local.encoding import Encoder
    from illm.backends.local.load import TextModel

_DEMO_NAMES = {"embedding": DEMO_EMBEDDER, "audio": DEMO_LISTENER}


@dataclass(frozen=True, slots=True)
class Missing:
    """A model the operator named and that cannot be had: shown as failed, with the reason, until it can."""

    served: str
    kind: str
    error: GatewayError
    name: str


def load_model(source: Source | Missing, config: Config, note: Note) -> Work:
    """Load one model and return its work, wherever this is called.

    Args:
        source: which; where the operator named what was not there, it is looked for again.
        config: how.
        note: told how far it is.

    Raises:
        GatewayError: it cannot be had, or not loaded.
    """
    found = source
    if isinstance(found, Missing):  # it may have come since
        found = find_named(found.name, found.kind)
    if isinstance(found, Missing):
        raise found.error
    return _LOADERS[source.kind](found, config, note)


def load_behind(source: Source | Missing, config: Config, note: Note) -> Work:
    """Load one model beside others that stream: its threads give way to theirs, as its answers come whole.

    Arguments and errors as `load_model`.
    """
    give_way()
    return load_model(source, config, note)


_NAMED: dict[str, ModelKind] = {"embedding": "embedding", "rerank": "rerank", "audio": "audio"}


def find_named(name: str, kind: str) -> Source | Missing:
    """Resolve what the operator named; its own files have the last word on what it is for."""
    try:
        source = resolve_named(name, _NAMED.get(kind, "text"))
    except GatewayError as error:
        served = _DEMO_NAMES.get(kind, name) if name == "demo" else name
        return Missing(served, kind, error, name)
    found = kind_in(source.directory) if source.directory is not None else "other"
    return source if found == "other" else replace(source, kind=found)


def _style(model: "TextModel", config: Config) -> AnswerStyle:
    return model.renderer.style(tool_format=config.tool_format, reasoning=config.reasoning)


def _grammars(model: "TextModel") -> GrammarCompiler:
    grammars = GrammarCompiler(model.tokenizer, model.vocabulary, model.eos)
    # Now, not when the first request wants it: it holds the interpreter, the longer the larger the vocabulary.
    grammars.warm()
    return grammars


def _engine_options(config: Config) -> dict[str, Any]:
    return {
        "kv_tokens": config.kv_tokens or None,
        "max_sequences": config.max_sequences,
        "prefix_cache": config.prefix_cache == "on",
        "quantize": config.quantize,
    }


def _load_text(source: Source, config: Config, note: Callable[[str], None]) -> Work:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise _missing(error) from error
    from illm.backends.local.engine import UnsupportedModel, engine_for
    from illm.backends.local.load import load_text
    from illm.backends.local.text_work import TextWork

    report = report_to(note)
    dtype = None if config.dtype == "auto" else config.dtype
    threads = config.threads or cores()
    model = load_text(source, device=config.device, dtype=dtype, threads=threads, progress=report)  # type: ignore[arg-type]
    try:
        engine = engine_for(model.model, model.renderer.decode, **_engine_options(config))
    except UnsupportedModel as error:
        raise GatewayError(Kind.MODEL_LOAD_FAILED, f"{source.served!r} cannot be run here: {error}") from error
    report(f"{source.served} is ready", None)
    return TextWork(model, engine, _style(model, config), _grammars(model))


def _load_vision(source: Source, config: Config, note: Callable[[str], None]) -> Work:
    try:
        import PIL  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise _missing(error) from error
    from illm.backends.local.engine import Engine, UnsupportedModel
    from illm.backends.local.load import TextModel
    from illm.backends.local.text_work import TextWork
    from illm.backends.local.vision.load import load_vision

    def make_engine(model: TextModel) -> Engine:
        return Engine(model.model, model.renderer.decode, **_engine_options(config))

    report = report_to(note)
    try:
        model, engine = load_vision(
            source,
            make_engine,
            device=config.device,
            dtype=None if config.dtype == "auto" else config.dtype,  # type: ignore[arg-type]
            threads=config.threads or cores(),
            max_pixels=config.max_image_pixels,
            progress=report,
        )
    except UnsupportedModel as error:
        raise GatewayError(Kind.MODEL_LOAD_FAILED, f"{source.served!r} cannot be run here: {error}") from error
    report(f"{source.served} is ready", None)
    return TextWork(model, engine, _style(model, config), _grammars(model))


def _load_embedder(source: Source, config: Config, note: Callable[[str], None]) -> Work:
    try:
        from illm.backends.local.embedder import load_embedder
    except ImportError as error:
        raise _missing(error) from error
    return _encoding(load_embedder, source, config, note)


def _load_cross_encoder(source: Source, config: Config, note: Callable[[str], None]) -> Work:
    try:
        from illm.backends.local.cross_encoder import load_cross_encoder
    except ImportError as error:
        raise _missing(error) from error
    return _encoding(load_cross_encoder, source, config, note)


def _encoding(load: "Callable[..., Encoder]", source: Source, config: Config, note: Callable[[str], None]) -> Work:
    from illm.backends.local.encoding_work import EncodingWork

    report = report_to(note)
    dtype = None if config.embedding_dtype == "auto" else config.embedding_dtype
    encoder = load(source, device=config.device, dtype=dtype, threads=config.threads, progress=report)
    report(f"{source.served} is ready", None)
    return EncodingWork(encoder)


def _load_listener(source: Source, config: Config, note: Callable[[str], None]) -> Work:
    try:
        from illm.backends.local.speech.load import load_listener
    except ImportError as error:
        raise _missing(error, "audio") from error
    from illm.backends.local.audio_work import AudioWork

    report = report_to(note)
    # Half the cores: a second full set of threads slows a text model beside it, whether or not both work.
    threads = config.audio_threads or max(1, cores() // 2)
    try:
        transcriber = load_listener(source, device=config.device, threads=threads, progress=report)
    except ImportError as error:
        raise _missing(error, "audio") from error
    report(f"{source.served} is ready", None)
    return AudioWork(transcriber, config.max_audio_seconds)


_LOADERS = {
    "text": _load_text,
    "vision": _load_vision,
    "embedding": _load_embedder,
    "rerank": _load_cross_encoder,
    "audio": _load_listener,
}


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _missing(error: ImportError, extra: str = "local") -> GatewayError:
    return GatewayError(
        Kind.MODEL_LOAD_FAILED,
        f"A local model needs the package {(error.name or 'torch').partition('.')[0]!r}: pip install 'illm[{extra}]'",
    )

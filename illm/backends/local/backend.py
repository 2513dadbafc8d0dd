"""The framework `transformers`: which local models there are, and the actors that serve them.

Importing this costs no torch: that comes with the first model that is loaded, in its engine thread.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from illm.actors.actor import Actor
from illm.actors.ref import Served
from illm.backends.local.actor import Driver, LocalActor, Slot
from illm.backends.local.answers import AnswerStyle, detect
from illm.backends.local.demo import has_listener
from illm.backends.local.footprint import footprint
from illm.backends.local.frames import Note
from illm.backends.local.grammar import GrammarCompiler
from illm.backends.local.parameters import SUPPORTED as SAMPLING
from illm.backends.local.process import EngineProcess
from illm.backends.local.progress import report_to
from illm.backends.local.sources import (
    DEMO_EMBEDDER,
    DEMO_LISTENER,
    ModelKind,
    Source,
    is_hub_id,
    kind_in,
    resolve_named,
    resolve_requested,
)
from illm.backends.local.template import template_in
from illm.backends.local.threads import EngineThread
from illm.backends.local.work import Work
from illm.config import Config
from illm.core.capabilities import Capability
from illm.errors import GatewayError, Kind

if TYPE_CHECKING:  # torch comes with the first model
    from illm.backends.local.encoding import Encoder
    from illm.backends.local.load import TextModel

_WRITING = frozenset(
    {
        Capability.CHAT,
        Capability.COMPLETIONS,
        Capability.STREAMING,
        Capability.LOGPROBS,
        Capability.JSON_SCHEMA,
        Capability.TOKENS,
    }
)

CAPABILITIES = {
    "text": _WRITING,
    "vision": _WRITING | {Capability.IMAGES},
    "embedding": frozenset({Capability.EMBEDDINGS, Capability.RERANK, Capability.TOKENS}),
    "rerank": frozenset({Capability.RERANK, Capability.TOKENS}),
    "audio": frozenset({Capability.AUDIO}),
}

NAMELESS = frozenset({"tgi", "dummy"})
"""What TGI's clients send for a model where they were only given an address: TGI has one, whatever it is called."""

_GENERATING = frozenset({"text", "vision"})

_KINDS: dict[Capability, ModelKind] = {
    Capability.EMBEDDINGS: "embedding",
    Capability.RERANK: "rerank",
    Capability.AUDIO: "audio",
}
"""What a model is taken for that is asked for this, as long as its files are not here to say."""

_AHEAD = 8
"""Calls an engine takes beyond what it runs, so that their prompts are ready when a place falls free."""

_ENCODER_CALLS = 64
"""Calls whose rows an encoder may put together into passes."""

_AUDIO_CALLS = 4
"""Recordings that are decoded at once: each may be hundreds of megabytes."""

_AUDIO_WAITING = 32
"""Recordings that may wait, whole files in memory; fewer than `max_queue`, which counts prompts."""

_CALLS = {"audio": _AUDIO_CALLS}

_DEMO_NAMES = {"embedding": DEMO_EMBEDDER, "audio": DEMO_LISTENER}

_HONOURED = SAMPLING | {
    "ebnf",
    "grammar",
    "regex",
    "response_format",
    "structured_outputs",
    "chat_template_kwargs",
    "parallel_tool_calls",
    "priority",
    "reasoning_effort",
    "tool_choice",
    "tools",
}

_CUTTING = frozenset({"truncate", "truncate_prompt_tokens"})

SUPPORTED = {
    "text": _HONOURED,
    "vision": _HONOURED,
    "embedding": _CUTTING | {"prompt_name"},
    "rerank": _CUTTING,
    "audio": frozenset[str](),
}
"""Request fields beyond the plain ones; what one model cannot do among them its own chat template decides."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A model the operator named and that cannot be had: shown as failed, with the reason, until it can."""

    served: str
    kind: str
    error: GatewayError
    name: str


class Local:
    """See `illm.actors.backend.Backend`.

    Args:
        config: the configuration.
    """

    framework = "transformers"

    def __init__(self, config: Config) -> None:
        self._config = config
        # By model, so that one whose last thread hangs is not loaded again beside it, whoever asks and how.
        self._slots: WeakValueDictionary[str, Slot] = WeakValueDictionary()
        said = config.says("embedding_model")
        self._main = _find(config.model, "text") if config.local else None
        self._main_embeds = self._main is not None and self._main.kind == "embedding" and not said
        demo = config.local and config.model == "demo" and not said
        self._embedding_name = "demo" if demo else config.embedding_model
        self._ranking = _find(config.rerank_model, "rerank") if config.rerank_model is not None else None
        named = [self._main] if self._main else []
        if not self._main_embeds and (said or demo):
            named.append(self._embedding)
        if self._ranking is not None and self._ranking.served not in {source.served for source in named}:
            named.append(self._ranking)
        # A second full set of OpenMP threads slows a text model beside it, whether or not both work.
        alone = not config.allow_models and not any(source.kind in _GENERATING for source in named)
        self._encoding = replace(config, threads=config.threads or (cores() if alone else max(1, cores() // 2)))
        self._audio = self._find_audio()
        if self._audio is not None and self._audio is not self._main:
            named.append(self._audio)
        self._named = tuple(self._serve(source, named=True) for source in named)

    @cached_property
    def _embedding(self) -> Source | Missing:
        # Looked up when somebody wants it: what a gateway to other servers never asks for need not slow its start.
        if self._main_embeds and self._main is not None:
            return self._main
        return _find(self._embedding_name, "embedding")

    def _find_audio(self) -> Source | Missing | None:
        if self._config.audio_model is not None:
            return _find(self._config.audio_model, "audio")
        if self._main is not None and self._main.kind == "audio":
            return self._main
        demo = self._config.local and self._config.model == "demo" and has_listener()
        return _find("demo", "audio") if demo else None

    @property
    def _reranker(self) -> Source | Missing:
        """What answers where a request to rerank names no model: a cross-encoder, or the cosine of embeddings."""
        if self._ranking is not None:
            return self._ranking
        return self._main if self._main is not None and self._main.kind == "rerank" else self._embedding

    def named(self) -> Sequence[Served]:
        """See `Backend.named`."""
        return self._named

    def default(self, need: Capability) -> str | None:
        """See `Backend.default`."""
        if need is Capability.EMBEDDINGS:
            return self._embedding.served
        if need is Capability.AUDIO and self._audio is not None:
            return self._audio.served
        if need is Capability.RERANK:
            return self._reranker.served
        capable = next((served.model for served in self._named if need in served.capabilities), None)
        if capable is not None or need in CAPABILITIES["text"]:
            return capable
        return self._named[0].model if self._named else None  # which then says that it cannot

    def on_demand(self, model: str, need: Capability) -> Served:
        """See `Backend.on_demand`."""
        if self._config.tgi_local and model in NAMELESS and self._named:
            return self._named[0]
        if model == self._embedding.served:
            return self._serve(self._embedding, named=False)
        if self._audio is not None and model == self._audio.served:
            return self._serve(self._audio, named=False)
        if not self._config.allows(model) or not is_hub_id(model):
            raise GatewayError(
                Kind.MODEL_NOT_FOUND,
                "The requested model does not exist here; /v1/models lists what is served",
                param="model",
            )
        source = resolve_requested(model, _KINDS.get(need, "text"))
        return self._serve(source, named=False)

    def _serve(self, source: Source | Missing, *, named: bool) -> Served:
        slot = self._slots.setdefault(source.served, Slot())
        load: Callable[..., Work] = partial(
            load_model, source, self._config if source.kind in _GENERATING else self._encoding
        )
        drive: Callable[..., Driver] = partial(EngineProcess, note=slot.note)
        if self._config.engine == "thread":
            load, drive = partial(load, slot.note), EngineThread
        capacity = _CALLS.get(source.kind, _ENCODER_CALLS)
        if source.kind in _GENERATING:
            capacity = self._config.max_sequences + _AHEAD

        def make_actor() -> Actor:
            return LocalActor(source.served, load, slot, capacity=capacity, drive=drive)

        return Served(
            framework=self.framework,
            model=source.served,
            capabilities=_capabilities(source, self._config),
            make_actor=make_actor,
            named=named,
            mailbox=min(self._config.max_queue, _AUDIO_WAITING) if source.kind == "audio" else self._config.max_queue,
            supported=SUPPORTED[source.kind],
            details=slot.describe,
            unloads=True,
            memory=lambda: 0 if isinstance(source, Missing) else footprint(source, self._config),
            stand_ins=self._stand_ins(source),
        )

    def _stand_ins(self, source: Source | Missing) -> dict[Capability, str]:
        found = {}
        if source.kind in _GENERATING and self._audio is not None:
            found[Capability.AUDIO] = self._audio.served
        if source.served == "demo":  # the name of a set of models: whoever asks it to embed means its embedder
            found |= {Capability.EMBEDDINGS: self._embedding.served, Capability.RERANK: self._reranker.served}
        return found


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
        found = _find(found.name, found.kind)
    if isinstance(found, Missing):
        raise found.error
    return _LOADERS[source.kind](found, config, note)


_NAMED: dict[str, ModelKind] = {"embedding": "embedding", "rerank": "rerank", "audio": "audio"}


def _find(name: str, kind: str) -> Source | Missing:
    """Resolve what the operator named; its own files have the last word on what it is for."""
    try:
        source = resolve_named(name, _NAMED.get(kind, "text"))
    except GatewayError as error:
        served = _DEMO_NAMES.get(kind, name) if name == "demo" else name
        return Missing(served, kind, error, name)
    found = kind_in(source.directory) if source.directory is not None else "other"
    return source if found == "other" else replace(source, kind=found)


def _capabilities(source: Source | Missing, config: Config) -> frozenset[Capability]:
    known = CAPABILITIES[source.kind]
    if source.kind not in _GENERATING or isinstance(source, Missing) or source.directory is None:
        return known  # what has yet to be fetched says when it is there
    template = template_in(source.directory)
    calls = "tools" in template and config.tool_format != "none" and (config.tool_format != "auto" or detect(template))
    return known | {Capability.TOOLS} if calls else known


def _style(model: "TextModel", config: Config) -> AnswerStyle:
    return model.renderer.style(tool_format=config.tool_format, reasoning=config.reasoning)


def _grammars(model: "TextModel") -> GrammarCompiler:
    grammars = GrammarCompiler(model.tokenizer, model.vocabulary, model.eos)
    # Now, not when the first request wants it: it holds the interpreter, the longer the larger the vocabulary.
    grammars.warm()
    return grammars


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
        engine = engine_for(
            model.model,
            model.renderer.decode,
            kv_tokens=config.kv_tokens or None,
            max_sequences=config.max_sequences,
            prefix_cache=config.prefix_cache == "on",
            quantize=config.quantize,
        )
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
        return Engine(
            model.model,
            model.renderer.decode,
            kv_tokens=config.kv_tokens or None,
            max_sequences=config.max_sequences,
            prefix_cache=config.prefix_cache == "on",
            quantize=config.quantize,
        )

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

"""The framework `transformers`: which local models there are, and the actors that serve them.

Importing this costs no torch: that comes with the first model that is loaded, in its engine thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from weakref import WeakValueDictionary

from illm.actors.actor import Actor
from illm.actors.ref import Served
from illm.backends.local.actor import Driver, LocalActor, Slot
from illm.backends.local.demo import has_listener
from illm.backends.local.footprint import footprint
from illm.backends.local.loaders import Missing, cores, find_named, load_behind, load_model
from illm.backends.local.offers import CAPABILITIES, GENERATING, KINDS, SUPPORTED, capabilities
from illm.backends.local.process import EngineProcess
from illm.backends.local.sources import Source, is_hub_id, resolve_requested
from illm.backends.local.threads import EngineThread
from illm.backends.local.work import Work
from illm.config import Config
from illm.core.capabilities import Capability
from illm.errors import GatewayError, Kind

NAMELESS = frozenset({"tgi", "dummy"})
"""What TGI's clients send for a model where they were only given an address: TGI has one, whatever it is called."""

_AHEAD = 8
"""Calls an engine takes beyond what it runs, so that their prompts are ready when a place falls free."""

_ENCODER_CALLS = 64
"""Calls whose rows an encoder may put together into passes."""

_AUDIO_CALLS = 4
"""Recordings that are decoded at once: each may be hundreds of megabytes."""

_AUDIO_WAITING = 32
"""Recordings that may wait, whole files in memory; fewer than `max_queue`, which counts prompts."""

_CALLS = {"audio": _AUDIO_CALLS}


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
        self._main = find_named(config.model, "text") if config.local else None
        self._main_embeds = self._main is not None and self._main.kind == "embedding" and not said
        demo = config.local and config.model == "demo" and not said
        self._embedding_name = "demo" if demo else config.embedding_model
        self._ranking = find_named(config.rerank_model, "rerank") if config.rerank_model is not None else None
        named = [self._main] if self._main else []
        if not self._main_embeds and (said or demo):
            named.append(self._embedding)
        if self._ranking is not None and self._ranking.served not in {source.served for source in named}:
            named.append(self._ranking)
        # A second full set of OpenMP threads slows a text model beside it, whether or not both work.
        alone = not config.allow_models and not any(source.kind in GENERATING for source in named)
        self._alone = alone
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
        return find_named(self._embedding_name, "embedding")

    def _find_audio(self) -> Source | Missing | None:
        if self._config.audio_model is not None:
            return find_named(self._config.audio_model, "audio")
        if self._main is not None and self._main.kind == "audio":
            return self._main
        demo = self._config.local and self._config.model == "demo" and has_listener()
        return find_named("demo", "audio") if demo else None

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
        source = resolve_requested(model, KINDS.get(need, "text"))
        return self._serve(source, named=False)

    def _serve(self, source: Source | Missing, *, named: bool) -> Served:
        slot = self._slots.setdefault(source.served, Slot())
        load: Callable[..., Work] = partial(load_model if self._alone else load_behind, source, self._encoding)
        if source.kind in GENERATING:
            load = partial(load_model, source, self._config)
        drive: Callable[..., Driver] = partial(EngineProcess, note=slot.note)
        if self._config.engine == "thread":
            load, drive = partial(load, slot.note), EngineThread
        capacity = _CALLS.get(source.kind, _ENCODER_CALLS)
        if source.kind in GENERATING:
            capacity = self._config.max_sequences + _AHEAD

        def make_actor() -> Actor:
            return LocalActor(source.served, load, slot, capacity=capacity, drive=drive)

        return Served(
            framework=self.framework,
            model=source.served,
            capabilities=capabilities(source.kind, None if isinstance(source, Missing) else source, self._config),
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
        if source.kind in GENERATING and self._audio is not None:
            found[Capability.AUDIO] = self._audio.served
        if source.served == "demo":  # the name of a set of models: whoever asks it to embed means its embedder
            found |= {Capability.EMBEDDINGS: self._embedding.served, Capability.RERANK: self._reranker.served}
        return found

"""Ollama, spoken to natively: `/api/chat`, `/api/generate` and `/api/embed`, not its OpenAI layer.

That layer ignores half of OpenAI's fields, among them `max_completion_tokens`, and swallows errors in streams.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from illm.backends.remote.ollama_answers import OllamaDecoder
from illm.backends.remote.transcription import no_translations, transcription_form
from illm.backends.remote.upstream import Decoder, Dialect, Outgoing
from illm.config import Config
from illm.core.capabilities import Capability
from illm.core.requests import Audio, Chat, Completion, Embed, Image, Request, Transcribe
from illm.dialects.ollama import chat_body, embed_body, generate_body
from illm.errors import GatewayError, Kind

TRANSCRIPT_FORMATS = ("json", "text")
"""Ollama asks a model that listens, as in a chat, and knows no times."""

SUPPORTED = frozenset(
    {
        "echo",
        "frequency_penalty",
        "keep_alive",
        "logprobs",
        "min_p",
        "options",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "shift",
        "suffix",
        "think",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncate",
    }
)

LATEST = ":latest"

_HEADERS = ((b"content-type", b"application/json"), (b"accept", b"application/x-ndjson, application/json"))


def dialect(config: Config) -> Dialect:
    """Return how an Ollama server is spoken to."""
    return OllamaDialect()


class OllamaDialect:
    """See `illm.backends.remote.upstream.Dialect`.

    It remembers what the last lists of models said each can do, because Ollama itself checks some of that too late
    or not at all: images for a model that cannot see end in its runner's words, or unseen.
    """

    framework = "ollama"
    capabilities = frozenset(Capability) - {Capability.RERANK, Capability.TOKENS}
    supported = SUPPORTED
    fans_out = True
    probe_path = "/"
    models_path = "/api/tags"

    def __init__(self) -> None:
        self._abilities: dict[str, frozenset[str]] = {}

    def outgoing(self, request: Request) -> Outgoing:
        """Translate a request.  Raises as `Dialect.outgoing`."""
        if request.model is None:
            message = "The ollama server has no model yet: name one, or pull one into it"
            raise GatewayError(Kind.MODEL_NOT_FOUND, message, param="model")
        for ability, param, kind, what in _needed(request):
            known = self._abilities.get(full_name(request.model))
            if known and ability not in known:
                message = f"The model {request.model!r} of backend 'ollama' does not support {what}"
                raise GatewayError(kind, message, param=param)
        match request:
            case Chat():
                return _post("/api/chat", chat_body(request))
            case Completion():
                return _post("/api/generate", generate_body(request))
            case Embed():
                return _post("/api/embed", embed_body(request))
            case Transcribe():
                return _transcribe(request)
            case _:
                raise GatewayError(Kind.CAPABILITY, f"The backend 'ollama' does not support {request.needs}")

    def decoder(self, request: Request) -> Decoder:
        """Return what will read the answer to `request`."""
        return OllamaDecoder(request)

    def models(self, body: bytes) -> Sequence[str]:
        """Read `/api/tags`: every name a model answers to, as users leave `:latest` out and Ollama spells it out."""
        try:
            listed = orjson.loads(body)["models"]
            models = {model.get("model") or model["name"]: model.get("capabilities") for model in listed}
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
            return ()
        names: dict[str, None] = {}
        for name, abilities in models.items():
            if not isinstance(name, str):
                continue
            if isinstance(abilities, list):
                self._abilities[full_name(name)] = frozenset(map(str, abilities))
            names |= dict.fromkeys((name.removesuffix(LATEST), name))
        return tuple(names)


def full_name(model: str) -> str:
    """Return a model's name as Ollama compares it: in lower case, and with the tag that goes without saying."""
    name = model.lower()
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def _needed(request: Request) -> list[tuple[str, str, Kind, str]]:
    """Return what a model must be able to do: Ollama's word, the field that asks, the refusal's kind, our word."""
    if isinstance(request, Completion):
        return [("insert", "suffix", Kind.CAPABILITY, "a suffix")] if request.suffix is not None else []
    if not isinstance(request, Chat):
        return []
    needed = []
    parts = {type(part): at for at, message in enumerate(request.messages) for part in message.content}
    for part, ability, what in ((Image, "vision", "images"), (Audio, "audio", "audio")):
        if part in parts:
            needed.append((ability, f"messages[{parts[part]}].content", Kind.CAPABILITY, what))
    if request.tools and (request.tool_choice is None or request.tool_choice.mode != "none"):
        needed.append(("tools", "tools", Kind.CAPABILITY, "tools"))
    told = request.body.get("think")
    if told or (told is None and request.reasoning_effort not in (None, "none")):
        param = "think" if told else "reasoning_effort"
        needed.append(("thinking", param, Kind.UNSUPPORTED_PARAMETER, "thinking"))
    return needed


def _transcribe(request: Transcribe) -> Outgoing:
    if request.translate:
        raise no_translations("ollama")
    word = request.fields.get("response_format", "json")
    if word not in TRANSCRIPT_FORMATS:
        message = f"The backend 'ollama' does not support transcripts of format '{word}'"
        raise GatewayError(Kind.CAPABILITY, message, param="response_format")
    for name in ("stream", "timestamp_granularities"):
        if request.fields.get(name):
            message = f"The backend 'ollama' does not support '{name}' for transcripts"
            raise GatewayError(Kind.CAPABILITY, message, param=name)
    content_type, form = transcription_form(request)
    return Outgoing("POST", "/v1/audio/transcriptions", ((b"content-type", content_type),), form)


def _post(path: str, body: Mapping[str, Any]) -> Outgoing:
    try:
        return Outgoing("POST", path, _HEADERS, orjson.dumps(body))
    except orjson.JSONEncodeError as error:  # a lone surrogate
        raise GatewayError(Kind.INVALID_REQUEST, f"The request holds text that cannot be sent: {error}") from None

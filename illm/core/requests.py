"""What a client asks, after its dialect has been parsed: plain frozen values, the same for every backend."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from illm.core.capabilities import Capability

Prompt = str | tuple[int, ...]
"""A raw prompt: text to tokenise, or token ids to take as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose tokens.  `None` means the client did not say: the configuration decides, then the model."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    ignore_eos: bool = False

    def over(self, defaults: "Sampling") -> "Sampling":
        """Fill what the client left open from `defaults`; what the client said stays."""
        gaps = {f.name: getattr(defaults, f.name) for f in fields(self) if getattr(self, f.name) is None}
        return replace(self, **gaps)


@dataclass(frozen=True, slots=True)
class Text:
    """A text part of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image part of a message: an http(s) or data URL, or bare base64; not yet fetched or decoded."""

    url: str | None = None
    base64: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.  `content` keeps the order of its parts; a plain string became one `Text`."""

    role: str
    content: tuple[Text | Image, ...]
    name: str | None = None

    @property
    def text(self) -> str:
        """The text parts joined as OpenAI joins them: with nothing between."""
        return "".join(part.text for part in self.content if isinstance(part, Text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation to continue with one assistant turn (or `sampling.n` of them)."""

    messages: tuple[Message, ...]
    sampling: Sampling
    model: str | None = None
    framework: str | None = None
    stream: bool = False
    include_usage: bool = False
    body: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The decoded JSON, for backends that speak the client's dialect and relay what they know."""

    @property
    def needs(self) -> Capability:
        """The one capability without which this request makes no sense."""
        images = any(isinstance(part, Image) for message in self.messages for part in message.content)
        return Capability.IMAGES if images else Capability.CHAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Raw prompts to continue; the answer's choice `p * n + i` is the i-th continuation of prompt p."""

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    echo: bool = False
    model: str | None = None
    framework: str | None = None
    stream: bool = False
    include_usage: bool = False
    body: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    needs: Capability = Capability.COMPLETIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """Texts (or token ids) to turn into vectors.

    `explicit` says that `model` is meant as an embedding model and nothing else (`embedding_model` was given); else it
    may name a generating model, beside which the configured embedding model answers.
    """

    inputs: tuple[Prompt, ...]
    dimensions: int | None = None
    base64: bool = False
    model: str | None = None
    explicit: bool = False
    framework: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    needs: Capability = Capability.EMBEDDINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcribe:
    """Speech to turn into text; `fields` are the form's other fields."""

    audio: bytes = field(repr=False)
    filename: str = "upload"
    model: str | None = None
    framework: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    needs: Capability = Capability.AUDIO


Generate = Chat | Completion
Request = Chat | Completion | Embed | Transcribe

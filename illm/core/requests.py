"""What a client asks, after its dialect has been parsed: plain frozen values, the same for every backend."""

from collections.abc import Mapping
from dataclasses import field, fields, replace
from typing import Any

from illm.core.capabilities import Capability
from illm.core.values import value

Prompt = str | tuple[int, ...]
"""A raw prompt: text to tokenise, or token ids to take as they are."""


@value(frozen=True, slots=True, kw_only=True)
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
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    """Token id, as text, to what is added to its logit."""
    logprobs: int | None = None
    """How many alternatives beside each token's own log-probability; `None` for no log-probabilities at all."""
    typical_p: float | None = None
    best_of: int | None = None
    """How many to make of which the best `n` are answered; `None` where that is `n` anyway."""
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()

    def over(self, defaults: "Sampling") -> "Sampling":
        """Fill what the client left open from `defaults`; what the client said stays."""
        if defaults is OPEN:
            return self
        gaps = {
            f.name: default
            for f in fields(self)
            if (default := getattr(defaults, f.name)) is not None and getattr(self, f.name) is None
        }
        return replace(self, **gaps) if gaps else self


OPEN = Sampling()
"""Nothing said."""


@value(frozen=True, slots=True)
class Text:
    """A text part of a message."""

    text: str


@value(frozen=True, slots=True)
class Image:
    """An image part of a message: an http(s) or data URL, or bare base64; not yet fetched or decoded."""

    url: str | None = None
    base64: str | None = None


@value(frozen=True, slots=True)
class Audio:
    """A piece of speech or sound in a message: standard base64 and the name of its format (`wav`, `mp3`)."""

    base64: str = field(repr=False)
    format: str


Part = Text | Image | Audio


@value(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant made earlier.  `arguments` is JSON text as a model wrote it, so perhaps not JSON."""

    name: str
    arguments: str
    id: str | None = None


@value(frozen=True, slots=True)
class Message:
    """One turn.  `content` keeps the order of its parts; a plain string became one `Text`.

    An assistant's turn may have `tool_calls` and the `reasoning` behind it; a `tool` turn answers `tool_call_id`
    (the older `function` turn answers the function called `name`).
    """

    role: str
    content: tuple[Part, ...]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str:
        """The text parts joined as OpenAI joins them: with nothing between."""
        return "".join(part.text for part in self.content if isinstance(part, Text))


@value(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False


@value(frozen=True, slots=True)
class ToolChoice:
    """Whether to call: `none`, `auto`, `required`, or `named` with the one tool's `name`."""

    mode: str
    name: str | None = None


@value(frozen=True, slots=True)
class ResponseFormat:
    """What the text must be: `type` is `text`, `json_object`, `json_schema` or a word only some backends know."""

    type: str
    schema: Mapping[str, Any] | None = None
    name: str | None = None
    strict: bool = False


@value(frozen=True, slots=True)
class Constraint:
    """What the whole text of an answer has to be.

    `kind` is `json_object`, `json_schema`, `regex`, `choice`, `grammar`, or a word only some backends know; `content`
    is the schema, the expression, the texts or the grammar; `param`, where the client wrote it.
    """

    kind: str
    content: Any
    param: str


@value(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation to continue with one assistant turn (or `sampling.n` of them)."""

    messages: tuple[Message, ...]
    sampling: Sampling
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    constraints: tuple[Constraint, ...] = ()
    """Of `response_format` and every other field that says what the text must be; one at most makes sense."""
    reasoning_effort: str | None = None
    model: str | None = None
    framework: str | None = None
    stream: bool = False
    include_usage: bool = False
    priority: int = 0
    """Lower goes first."""
    body: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The decoded JSON, for backends that speak the client's dialect and relay what they know."""
    plain: bool = field(default=False, init=False, repr=False, compare=False)
    """Only text, and a `body` that a server of the client's dialect takes as it is.  A changed copy is not plain."""

    @property
    def needs(self) -> Capability:
        """The one capability without which this request makes no sense."""
        if self.plain:
            return Capability.CHAT
        kinds = {type(part) for message in self.messages for part in message.content}
        return Capability.AUDIO if Audio in kinds else Capability.IMAGES if Image in kinds else Capability.CHAT


@value(frozen=True, slots=True, kw_only=True)
class Completion:
    """Raw prompts to continue; the answer's choice `p * n + i` is the i-th continuation of prompt p."""

    prompts: tuple[Prompt, ...]
    sampling: Sampling
    echo: bool = False
    suffix: str | None = None
    constraints: tuple[Constraint, ...] = ()
    model: str | None = None
    framework: str | None = None
    stream: bool = False
    include_usage: bool = False
    priority: int = 0
    """Lower goes first."""
    body: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    needs: Capability = Capability.COMPLETIONS


@value(frozen=True, slots=True, kw_only=True)
class Embed:
    """Texts (or token ids) to turn into vectors.

    `explicit` says that `model` is meant as an embedding model and nothing else (`embedding_model` was given); else it
    may name a generating model, beside which the configured embedding model answers.
    """

    inputs: tuple[Prompt, ...]
    dimensions: int | None = None
    base64: bool = False
    cut: int | None = None
    """Cut longer inputs to this many tokens, `WHOLE` for as many as the model takes; `None` refuses them."""
    prompt_name: str | None = None
    """Which of the model's own prompts to put before every text; `None` for its default."""
    model: str | None = None
    explicit: bool = False
    framework: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    needs: Capability = Capability.EMBEDDINGS


@value(frozen=True, slots=True, kw_only=True)
class Transcribe:
    """Speech to turn into text; `fields` are the form's other fields.

    `translate` asks for English text, whatever the language of the speech.
    """

    audio: bytes = field(repr=False)
    filename: str = "upload"
    model: str | None = None
    framework: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    translate: bool = False
    needs: Capability = Capability.AUDIO


@value(frozen=True, slots=True, kw_only=True)
class Rerank:
    """Documents to put in the order of their relevance to a query; `most` is how many of the best are wanted."""

    query: str
    documents: tuple[str, ...]
    most: int | None = None
    return_documents: bool = True
    cut: int | None = None
    """As `Embed.cut`, for a query and its document together where the model reads both at once."""
    model: str | None = None
    framework: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    needs: Capability = Capability.RERANK


@value(frozen=True, slots=True, kw_only=True)
class Tokenize:
    """A raw prompt or a conversation (exactly one of them) to turn into token ids."""

    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    special: bool = True
    """Whether the tokenizer adds its own tokens (`<s>`, ...) to a raw prompt; a template brings a conversation's."""
    strings: bool = False
    model: str | None = None
    framework: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    needs: Capability = Capability.TOKENS


@value(frozen=True, slots=True, kw_only=True)
class Detokenize:
    """Token ids to turn into text, special tokens included."""

    tokens: tuple[int, ...]
    model: str | None = None
    framework: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    needs: Capability = Capability.TOKENS


WHOLE = -1
"""As a `cut`: as many tokens as the model takes."""

Generate = Chat | Completion
Request = Chat | Completion | Embed | Rerank | Tokenize | Detokenize | Transcribe

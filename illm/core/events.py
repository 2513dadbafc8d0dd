"""What a backend answers: small frozen values, sent in batches from an actor to the request that waits for them.

A reply is any number of `Delta`, `Reasoning` and `ToolDelta` and one `Finish` per choice, closed by exactly one `Done`;
or `Vectors`, `Ranking` or `Tokens`, then `Done` (text from token ids is a single `Delta`);
or one `Recording`, any number of `Segment` in order, then `Done`;
or any number of `Raw`, then `Done` (a relayed answer is never mixed with the others);
or, at any point, one `Failed` after which nothing follows.  A reply that ends with neither `Done` nor `Failed`
means that the backend died.
"""

from illm.core.values import value
from illm.errors import GatewayError


@value(frozen=True, slots=True)
class Logprob:
    """One token's natural log-probability (-9999.0 for minus infinity); `raw` is its bytes where known.

    `logprob` is None for the first token of an echoed prompt, which follows from nothing.

    `id` is its number in the vocabulary, where known; `special` says that it is no part of the text, whatever its own
    text (the end of the text, say).
    """

    token: str
    logprob: float | None
    raw: bytes | None = None
    top: "tuple[Logprob, ...]" = ()
    id: int | None = None
    special: bool = False


@value(frozen=True, slots=True)
class Delta:
    """Text of choice `index`, complete characters only, stop strings already cut away; `tokens` is how many made it."""

    index: int
    text: str
    tokens: int = 0
    logprobs: tuple[Logprob, ...] = ()


@value(frozen=True, slots=True)
class Reasoning:
    """Text that the model thought, apart from what it says."""

    index: int
    text: str


@value(frozen=True, slots=True)
class ToolDelta:
    """A piece of tool call number `call` (0, 1, ...) of choice `index`.

    The first piece of a call carries `id` and `name`, no later one does; `arguments` is JSON text, in pieces.
    """

    index: int
    call: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@value(frozen=True, slots=True)
class Raw:
    """Bytes that are in the client's own dialect already and go out as they are.

    In a stream whole frames; else the whole body.  The encoder adds nothing to them, not even the end.
    """

    data: bytes


@value(frozen=True, slots=True)
class Finish:
    """Choice `index` has ended; `reason` is OpenAI's word (`stop`, `length`, ...).

    `stop` is the stop string that ended it, where one did and the backend knows.
    """

    index: int
    reason: str
    stop: str | None = None


@value(frozen=True, slots=True)
class Vectors:
    """Embeddings in the order of the inputs, each as little-endian float32 bytes."""

    rows: tuple[bytes, ...]


@value(frozen=True, slots=True)
class Word:
    """A spoken word with its punctuation, and a space in front where its language has one; times in seconds."""

    word: str
    start: float
    end: float


@value(frozen=True, slots=True)
class Recording:
    """What is being listened to: its length in seconds, and the language (ISO 639-1), heard or said."""

    seconds: float
    language: str


@value(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a transcript, with what the model thought of it.

    `start` and `end` are seconds, `seek` is the start of the window it was heard in, in hundredths of a second.
    `words` is None where nobody asked for them.
    """

    start: float
    end: float
    text: str
    seek: int = 0
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0
    words: tuple[Word, ...] | None = None


@value(frozen=True, slots=True)
class Ranking:
    """How relevant each document is to the query, in the order of the documents; more is better."""

    scores: tuple[float, ...]


@value(frozen=True, slots=True)
class Tokens:
    """Token ids, the context of the model they are for (where known), and each token's own spelling (where asked)."""

    ids: tuple[int, ...]
    limit: int | None = None
    strings: tuple[str, ...] | None = None


@value(frozen=True, slots=True)
class Usage:
    """Token counts of the whole request: a prompt counts once, however many choices continue it.

    Args:
        prompt_tokens: of all prompts.
        completion_tokens: of all choices.
        cached_tokens: of the prompts, those that nobody had to compute.
        reasoning_tokens: of the choices, those that are reasoning, where the backend counts them.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@value(frozen=True, slots=True)
class Done:
    """The upstream message has ended properly."""

    usage: Usage


@value(frozen=True, slots=True)
class Failed:
    """The request failed.  A value, not an exception: it crosses tasks and threads and stays one request's affair."""

    error: GatewayError


Event = Delta | Reasoning | ToolDelta | Raw | Finish | Vectors | Ranking | Tokens | Recording | Segment | Done | Failed

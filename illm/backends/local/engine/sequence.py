"""One sequence: what was asked, and how far it got.  Knows no tensors."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from illm.core.detokenizer import Detokenizer
from illm.core.stops import StopCutter


class RequestTooLarge(ValueError):  # noqa: N818  # names the thing refused
    """The sequence could never fit the model's context or the KV memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRequest:
    """One choice of one request.

    Args:
        id: unique over the engine's life, given by the caller.
        prompt: token ids, at least one.
        max_new_tokens: at least one.
        temperature: 0 is greedy.
        top_p: the nucleus, in (0, 1]; 1 is off.
        top_k: 0 is off.
        repetition_penalty: as in Transformers: it counts the prompt too, 1 is off.
        seed: makes the sequence repeatable whatever runs beside it.
        stop: strings that end the text and are not shown.
        eos: token ids that end the text and are not shown; empty to ignore the model's own.
        logprobs: how many alternatives to score beside each token; None to score nothing.

    Raises:
        ValueError: a value is out of range.
    """

    id: int
    prompt: Sequence[int]
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    eos: frozenset[int] = frozenset()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, good in (
            ("prompt", len(self.prompt) >= 1),
            ("max_new_tokens", self.max_new_tokens >= 1),
            ("temperature", math.isfinite(self.temperature) and self.temperature >= 0),
            ("top_p", 0 < self.top_p <= 1),
            ("top_k", self.top_k >= 0),
            ("repetition_penalty", math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0),
        ):
            if not good:
                raise ValueError(f"{name} is out of range")


@dataclass(frozen=True, slots=True)
class Score:
    """One chosen token and how likely it was.

    Args:
        token: its id.
        logprob: natural logarithm of its probability.
        top: ids and logarithms of the likeliest tokens, falling.
        text: what it completed, before anything was cut away at a stop string; filled in when it is accepted.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    text: str = ""


FAILED = "failed"
"""How a sequence ends that cannot be computed."""


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """What one step added to one sequence.

    Args:
        id: the request's.
        text: may be empty while a character or a possible stop string is undecided.
        tokens: new tokens in this step, the end-of-text token included.
        finish: "stop", "length" or `FAILED` with the last output, None before.
        stop: the stop string that was met, with the last output.
        score: of the token, where the request wants it.
    """

    id: int
    text: str
    tokens: int
    finish: str | None
    stop: str | None = None
    score: Score | None = None


class LiveSequence:
    """A request in the engine.

    `tokens` is prompt and answer in one list, and `computed` counts how many of them have their keys and values in
    `blocks`.  Prefill, decoding and recomputation after a preemption are therefore the same thing: tokens that are
    not computed yet.  Dropping the blocks never touches text that has already gone out.  `reached` is the most that
    `computed` has ever been.
    """

    __slots__ = (
        "__weakref__", "_cutter", "_detokenizer", "_rng", "blocks", "computed", "reached", "request", "tokens",
    )  # fmt: skip

    def __init__(self, request: SequenceRequest, decode: Callable[[Sequence[int]], str]) -> None:
        self.request = request
        self.tokens = list(request.prompt)
        self.computed = self.reached = 0
        self.blocks: list[int] = []
        # Not cryptography.  A stream of its own is what makes a seed independent of the neighbours.
        self._rng = random.Random(request.seed)  # noqa: S311
        self._detokenizer = Detokenizer(decode, request.prompt)
        self._cutter = StopCutter(request.stop)

    @property
    def pending(self) -> int:
        """How many tokens have to go through the model before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    def draw(self) -> float:
        """Return the next number of the sequence's own stream, uniform in [0, 1)."""
        return self._rng.random()

    def accept(self, token: int, score: Score | None = None) -> SequenceOutput:
        """Append a sampled token and return what may be shown of it, beside its score if it has one."""
        self.tokens.append(token)
        finish: str | None = None
        if token in self.request.eos:
            text, finish = self._detokenizer.close(), "stop"
        else:
            text = self._detokenizer.feed((token,))
            if self.generated == self.request.max_new_tokens:
                text, finish = text + self._detokenizer.close(), "length"
        shown = self._cutter.feed(text) if finish is None else self._finish(text)
        hit = self._cutter.hit
        return SequenceOutput(
            self.request.id,
            shown,
            1,
            "stop" if hit is not None else finish,
            hit,
            None if score is None else replace(score, text=text),
        )

    def _finish(self, text: str) -> str:
        return self._cutter.feed(text) + self._cutter.close()

"""One sequence: what was asked, and how far it got.  Knows no tensors."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from illm.core.detokenizer import Detokenizer
from illm.core.stops import StopCutter

if TYPE_CHECKING:  # it has tensors, which this file need not know
    from illm.backends.local.engine.constraint import Constraint, Grammar


class RequestTooLarge(ValueError):  # noqa: N818  # names the thing refused
    """The sequence could never fit the model's context or the memory.

    Args:
        message: what, of what.
        param: what is asked for too much of, by OpenAI's name.
    """

    def __init__(self, message: str, param: str = "max_tokens") -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRequest:
    """One choice of one request.

    Args:
        id: unique over the engine's life, given by the caller.
        prompt: token ids, at least one.
        max_new_tokens: 0 to compute the prompt and nothing else.
        temperature: 0 is greedy.
        top_p: the nucleus, in (0, 1]; 1 is off.
        top_k: 0 is off.
        min_p: tokens less likely than this part of the likeliest are left out; 0 is off.
        typical_p: the mass of the most typical tokens to keep, in (0, 1]; 1 is off.
        repetition_penalty: as in Transformers: it counts the prompt too, 1 is off.
        presence_penalty: taken off the logit of what has been generated already.
        frequency_penalty: the same, as often as it has been.
        logit_bias: token ids, and what is added to their logits.
        min_tokens: none of `eos` before there are so many.
        seed: makes the sequence repeatable whatever runs beside it.
        stop: strings that end the text and are not shown.
        eos: token ids that end the text and are not shown; empty to ignore the model's own.
        logprobs: how many alternatives to score beside each token; None to score nothing.
        priority: lower goes first, whenever it arrived.
        reuse: begin after what is known of the prompt; False computes every token of it anew.
        salt: what else its keys and values depend on: only sequences of one salt share any.
        prompt_scores: score the prompt's tokens as well, so compute each of them; needs `logprobs`.
        decode: token ids to text, where not as the engine does for all.
        constraint: what the text has to be, if anything.

    Raises:
        ValueError: a value is out of range.
    """

    id: int
    prompt: Sequence[int]
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    eos: frozenset[int] = frozenset()
    logprobs: int | None = None
    priority: int = 0
    reuse: bool = True
    salt: bytes = b""
    prompt_scores: bool = False
    decode: Callable[[Sequence[int]], str] | None = None
    constraint: "Grammar | None" = None

    def __post_init__(self) -> None:
        for name, good in (
            ("prompt", len(self.prompt) >= 1),
            ("max_new_tokens", self.max_new_tokens >= 0),
            ("temperature", math.isfinite(self.temperature) and self.temperature >= 0),
            ("top_p", 0 < self.top_p <= 1),
            ("top_k", self.top_k >= 0),
            ("min_p", 0 <= self.min_p <= 1),
            ("typical_p", 0 < self.typical_p <= 1),
            ("presence_penalty", math.isfinite(self.presence_penalty)),
            ("frequency_penalty", math.isfinite(self.frequency_penalty)),
            ("logit_bias", not self.logit_bias or min(self.logit_bias) >= 0),
            ("min_tokens", self.min_tokens >= 0),
            ("prompt_scores", not self.prompt_scores or self.logprobs is not None),
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
        ends: it is one of the request's `eos`, so no part of the text; filled in when it is accepted.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    text: str = ""
    ends: bool = False


_SCORED_PIECE = 128

NO_TOKEN = -1
"""What a text goes on with where it ends as it is: its tokenizer has no token that says so."""

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
        prompt: scores of all the prompt's tokens but the first, which follows from nothing; with the first output.
        cached: how many of the prompt's tokens did not have to be computed; the same in every output.
    """

    id: int
    text: str
    tokens: int
    finish: str | None
    stop: str | None = None
    score: Score | None = None
    prompt: tuple[Score, ...] = ()
    cached: int = 0


class LiveSequence:
    """A request in the engine.

    `tokens` is prompt and answer in one list, and `computed` counts how many of them have their keys and values in
    `blocks`.  Prefill, decoding and recomputation after a preemption are therefore the same thing: tokens that are
    not computed yet.  Dropping the blocks never touches text that has already gone out.  `reached` is the most that
    `computed` has ever been; `cached` is how much of the prompt was known when the sequence began (None before).
    `salt` is the request's and, where the prompt has one of its own (pictures), that too.  `rank` is the scheduler's.
    """

    __slots__ = (
        "__weakref__",
        "_cutter",
        "_detokenizer",
        "_rng",
        "_scores_prompt",
        "adjustments",
        "blocks",
        "cached",
        "computed",
        "constraint",
        "prompt_scores",
        "rank",
        "reached",
        "request",
        "salt",
        "tokens",
    )

    def __init__(self, request: SequenceRequest, decode: Callable[[Sequence[int]], str]) -> None:
        self.request = request
        self.tokens = list(request.prompt)
        self.computed = self.reached = 0
        self.cached: int | None = None
        self.blocks: list[int] = []
        self.rank = (request.priority, 0)
        self.salt: bytes = request.salt + getattr(request.prompt, "salt", b"")
        # Not cryptography.  A stream of its own is what makes a seed independent of the neighbours.
        # Its seeds are without sign, and -1 is not to be 1.
        self._rng = random.Random(None if request.seed is None else request.seed % 2**64)  # noqa: S311
        self._scores_prompt = request.prompt_scores
        self.prompt_scores: list[Score] = []
        self.adjustments: Any = None  # the sampler's own, made when it first needs any
        self._detokenizer = Detokenizer(request.decode or decode, request.prompt)
        self._cutter = StopCutter(request.stop)
        grammar = request.constraint
        self.constraint: Constraint | None = None if grammar is None else grammar.start(request.eos)

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

    def settle(self, token: int) -> int:
        """Return the token to go on with where `token` was sampled: a constraint may insist on another, or on none."""
        if self.constraint is None:
            return token
        return self.constraint.take(token, max(0, self.request.max_new_tokens - self.generated - 1))

    def accept(self, token: int, score: Score | None = None) -> SequenceOutput:
        """Append what `settle` returned and return what may be shown of it, beside its score if it has one."""
        count = int(token != NO_TOKEN)
        self.tokens += [token] * count
        finish: str | None = None
        held = self.constraint
        ends = token in self.request.eos
        if ends or not count:
            text, finish = self._detokenizer.close(), "stop"
        elif held is not None and held.finished:
            text, finish = self._detokenizer.feed((token,)) + self._detokenizer.close(), "stop"
        else:
            text = self._detokenizer.feed((token,))
            if self.generated == self.request.max_new_tokens:
                text, finish = text + self._detokenizer.close(), "length"
        if finish == "stop" and held is not None and held.cut:
            finish = "length"  # the text is whole, but its client should know that there was no room for more
        shown = self._cutter.feed(text) if finish is None else self._finish(text)
        hit = self._cutter.hit
        return SequenceOutput(
            self.request.id,
            shown,
            count,
            "stop" if hit is not None else finish,
            hit,
            None if score is None else replace(score, text=text, ends=ends),
            self._take_prompt_scores(),
            self.cached or 0,
        )

    def end(self) -> SequenceOutput:
        """Return the output of a request for nothing but its prompt."""
        return SequenceOutput(
            self.request.id, "", 0, "length", prompt=self._take_prompt_scores(), cached=self.cached or 0
        )

    @property
    def unscored(self) -> range:
        """Which positions of the prompt still have to tell how likely the next token of the prompt was."""
        request = self.request
        return range(len(self.prompt_scores), len(request.prompt) - 1) if self._scores_prompt else range(0)

    @property
    def largest_piece(self) -> int:
        """How many tokens may go through the model at once: every scored one costs a row of logits."""
        return _SCORED_PIECE if self._scores_prompt else len(self.tokens)

    def _take_prompt_scores(self) -> tuple[Score, ...]:
        self._scores_prompt = False  # a preemption computes the prompt again, but nobody asks twice
        scores, self.prompt_scores = tuple(self.prompt_scores), []
        return scores

    def _finish(self, text: str) -> str:
        return self._cutter.feed(text) + self._cutter.close()

"""Chat and completions on one engine: calls become sequences, and what the engine makes of them becomes events."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from illm.backends.local.engine import FAILED, RequestTooLarge, Score, SequenceOutput, SequenceRequest
from illm.backends.local.work import Batch
from illm.core.events import Delta, Done, Event, Failed, Finish, Logprob, Usage
from illm.core.requests import Chat, Completion, Request, Sampling
from illm.errors import GatewayError, Kind

if TYPE_CHECKING:  # torch comes with the model, and tests of this file need neither
    from illm.backends.local.engine import Engine
    from illm.backends.local.load import TextModel

PLAIN = Sampling(temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
"""What holds where neither the request nor the operator nor the model says anything."""


@dataclass(frozen=True, slots=True)
class PreparedText:
    """Tokenised prompts and the sampling that holds for all of them."""

    prompts: list[list[int]]
    sampling: Sampling
    max_tokens: list[int]
    stops: tuple[str, ...]
    eos: frozenset[int]


@dataclass(slots=True)
class Conversation:
    """One call's sequences, and what has come of them."""

    key: int
    sequences: range
    running: int
    prompt_tokens: int
    completion_tokens: int = 0


class TextWork:
    """See `Work`.

    Args:
        model: the loaded model.
        engine: made over it, in the same thread.
    """

    def __init__(self, model: "TextModel", engine: "Engine") -> None:
        self._model = model
        self._engine = engine
        self._by_sequence: dict[int, Conversation] = {}
        self._by_call: dict[int, Conversation] = {}
        self._next = 0

    def prepare(self, request: Request) -> PreparedText:
        """See `Work.prepare`."""
        assert isinstance(request, Chat | Completion)  # noqa: S101 - the directory has looked at the capability
        sampling = request.sampling.over(self._model.defaults).over(PLAIN)
        renderer = self._model.renderer
        if isinstance(request, Chat):
            prompts, field_name = [renderer.chat(request.messages)], "messages"
            # `ignore_eos` is for measuring: nothing but the length may end the answer then.
            stops = sampling.stop if sampling.ignore_eos else (*sampling.stop, *renderer.stops)
        else:
            prompts, field_name, stops = [renderer.raw(prompt) for prompt in request.prompts], "prompt", sampling.stop
        limits = [_room(prompt, sampling.max_tokens, self._engine.context, field_name) for prompt in prompts]
        eos = frozenset[int]() if sampling.ignore_eos else self._model.eos
        return PreparedText(prompts, sampling, limits, stops, eos)

    def add(self, key: int, prepared: PreparedText) -> None:
        """See `Work.add`."""
        sampling = prepared.sampling
        count = len(prepared.prompts) * sampling.n
        conversation = Conversation(key, range(self._next, self._next + count), count, sum(map(len, prepared.prompts)))
        self._next += count
        try:
            for choice, sequence in enumerate(conversation.sequences):
                prompt = choice // sampling.n
                self._engine.add(
                    SequenceRequest(
                        id=sequence,
                        prompt=prepared.prompts[prompt],
                        max_new_tokens=prepared.max_tokens[prompt],
                        temperature=sampling.temperature or 0.0,
                        top_p=1.0 if sampling.top_p is None else sampling.top_p,
                        top_k=sampling.top_k or 0,
                        repetition_penalty=sampling.repetition_penalty or 1.0,
                        # One seed for n choices must not give n equal answers.
                        seed=None if sampling.seed is None else sampling.seed + choice,
                        stop=prepared.stops,
                        eos=prepared.eos,
                        logprobs=sampling.logprobs,
                    )
                )
        except BaseException as error:
            self._drop(conversation)
            if isinstance(error, RequestTooLarge):
                raise GatewayError(Kind.CONTEXT_LENGTH, str(error), param="max_tokens") from error
            raise
        self._by_call[key] = conversation
        self._by_sequence.update(dict.fromkeys(conversation.sequences, conversation))

    def abort(self, key: int) -> None:
        """See `Work.abort`."""
        conversation = self._by_call.pop(key, None)
        if conversation is not None:
            self._drop(conversation)

    def step(self) -> Batch:
        """See `Work.step`."""
        return [(self._by_sequence[output.id].key, self._events(output)) for output in self._engine.step()]

    @property
    def busy(self) -> bool:
        """See `Work.busy`."""
        return self._engine.busy

    def describe(self) -> dict[str, Any]:
        """See `Work.describe`."""
        engine = self._engine
        why = {} if engine.loop_reason is None else {"loop_reason": engine.loop_reason}
        how = {"loop": engine.loop, **why, "quantized": engine.quantized}
        return {"engine": asdict(engine.stats), "context": engine.context, **how}

    def _events(self, output: SequenceOutput) -> tuple[Event, ...]:
        conversation = self._by_sequence[output.id]
        if output.finish == FAILED:
            self.abort(conversation.key)
            return (Failed(GatewayError(Kind.INTERNAL, "The model could not take this request's images")),)
        conversation.completion_tokens += output.tokens
        index = output.id - conversation.sequences.start
        logprobs = () if output.score is None else (self._logprob(output.score),)
        events: list[Event] = [Delta(index, output.text, output.tokens, logprobs)] if output.text or logprobs else []
        if output.finish is not None:
            events.append(Finish(index, output.finish, output.stop))
            del self._by_sequence[output.id]
            conversation.running -= 1
            if conversation.running == 0:
                del self._by_call[conversation.key]
                events.append(Done(Usage(conversation.prompt_tokens, conversation.completion_tokens)))
        return tuple(events)

    def _logprob(self, score: Score) -> Logprob:
        special = score.token in self._model.eos
        top = tuple(Logprob(self._token(token), logprob, id=token) for token, logprob in score.top)
        # The end of the text has text of its own, which is no part of the answer.
        text = self._token(score.token) if special else score.text
        return Logprob(text, score.logprob, None, top, score.token, special)

    def _token(self, token: int) -> str:
        return self._model.renderer.token(token)

    def _drop(self, conversation: Conversation) -> None:
        for sequence in conversation.sequences:
            self._engine.abort(sequence)
            self._by_sequence.pop(sequence, None)


def _room(prompt: list[int], asked: int | None, context: int, field_name: str) -> int:
    """Return how many tokens may follow a prompt.  Raises `GatewayError` where they do not fit."""
    left = context - len(prompt)
    if left < 1 or (asked is not None and asked > left):
        wanted = f" and {asked} tokens are to follow" if asked is not None else ""
        raise GatewayError(
            Kind.CONTEXT_LENGTH,
            f"This model's context is {context} tokens: the prompt has {len(prompt)}{wanted}",
            param=field_name if left < 1 else "max_tokens",
        )
    return left if asked is None else asked

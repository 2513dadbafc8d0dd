"""Chat and completions on one engine: calls become sequences, and what the engine makes of them becomes events."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from illm.backends.local.answers import AnswerPlan, AnswerReader, AnswerStyle
from illm.backends.local.best_of import Contest
from illm.backends.local.constraints import compiled, constraint_of, refuse_schemas
from illm.backends.local.engine import FAILED, RequestTooLarge, SequenceOutput, SequenceRequest
from illm.backends.local.logprobs import Echo, TokenTeller
from illm.backends.local.parameters import refuse_impossible
from illm.backends.local.token_answers import answer_tokens
from illm.backends.local.work import Answered, Batch
from illm.core.events import Delta, Done, Event, Failed, Finish, Usage
from illm.core.requests import OPEN, Chat, Completion, Detokenize, Request, Sampling, Tokenize
from illm.errors import GatewayError, Kind

if TYPE_CHECKING:  # torch comes with the model, and tests of this file need neither
    from illm.backends.local.engine import Engine
    from illm.backends.local.engine.constraint import Grammar
    from illm.backends.local.grammar import GrammarCompiler
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
    logprobs: int | None
    echoes: tuple[Echo, ...] = ()
    chat: bool = False
    answers: AnswerPlan | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    grammar: "Grammar | None" = None
    priority: int = 0


@dataclass(slots=True)
class Conversation:
    """One call's sequences, and what has come of them."""

    key: int
    prepared: PreparedText
    sequences: range
    running: int
    prompt_tokens: int
    contest: Contest | None
    unechoed: set[int]
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached: dict[int, int] = field(default_factory=dict)
    """How much of each prompt nobody had to compute, not even its first choice for the others."""
    readers: dict[int, AnswerReader] = field(default_factory=dict)
    """By sequence, where an answer is more than text."""

    @property
    def usage(self) -> Usage:
        """What it has cost, once it has ended."""
        cached = sum(self.cached.values())
        return Usage(self.prompt_tokens, self.completion_tokens, cached, self.reasoning_tokens)

    def prompt_of(self, index: int) -> int:
        """Return which prompt the sequence with this index continues."""
        return index // (len(self.sequences) // len(self.prepared.prompts))


class TextWork:
    """See `Work`.

    Args:
        model: the loaded model.
        engine: made over it, in the same thread.
        style: how its answers look; without one they are text.
        grammars: compiles what answers have to be; without it they cannot be held to anything.
    """

    def __init__(
        self,
        model: "TextModel",
        engine: "Engine",
        style: AnswerStyle | None = None,
        grammars: "GrammarCompiler | None" = None,
    ) -> None:
        self._model = model
        self._engine = engine
        self._style = style
        self._grammars = grammars
        self._by_sequence: dict[int, Conversation] = {}
        self._by_call: dict[int, Conversation] = {}
        self._next = 0

    def prepare(self, request: Request) -> PreparedText | Answered:
        """See `Work.prepare`."""
        if isinstance(request, Tokenize | Detokenize):
            return Answered(self._tokens(request))
        assert isinstance(request, Chat | Completion)  # noqa: S101 - the directory has looked at the capability
        sampling = request.sampling.over(self._model.defaults).over(PLAIN)
        refuse_impossible(request, sampling, self._model.vocabulary)
        renderer = self._model.renderer
        answers: AnswerPlan | None = None
        if isinstance(request, Chat):
            prompt, answers = self._chat(request)
            prompts, field_name = [prompt], "messages"
            # `ignore_eos` is for measuring: nothing but the length may end the answer then.
            stops = sampling.stop if sampling.ignore_eos else (*sampling.stop, *renderer.stops)
        else:
            prompts, field_name, stops = [renderer.raw(prompt) for prompt in request.prompts], "prompt", sampling.stop
        limits = [_room(prompt, sampling.max_tokens, self._engine.context, field_name) for prompt in prompts]
        eos = frozenset[int]() if sampling.ignore_eos else self._model.eos
        # The best are known by their probabilities, whoever wants to see those.
        logprobs = sampling.logprobs if sampling.best_of is None else sampling.logprobs or 0
        return PreparedText(
            prompts,
            sampling,
            limits,
            stops,
            eos | frozenset(sampling.stop_token_ids),
            logprobs,
            self._echoes(request, prompts),
            isinstance(request, Chat),
            answers,
            renderer.decoder(answers.keep) if answers is not None and answers.keep else None,
            self._grammar(request, answers),
            request.priority,
        )

    def add(self, key: int, prepared: PreparedText) -> None:
        """See `Work.add`."""
        sampling = prepared.sampling
        each = sampling.best_of or sampling.n
        count = len(prepared.prompts) * each
        contest = None if each == sampling.n else Contest(sampling.n, each, logprobs=sampling.logprobs is not None)
        sequences = range(self._next, self._next + count)
        conversation = Conversation(
            key, prepared, sequences, count, sum(map(len, prepared.prompts)), contest, set(range(count))
        )
        self._next += count
        try:
            for choice, sequence in enumerate(conversation.sequences):
                prompt = choice // each
                self._engine.add(
                    SequenceRequest(
                        id=sequence,
                        prompt=prepared.prompts[prompt],
                        max_new_tokens=prepared.max_tokens[prompt],
                        temperature=sampling.temperature or 0.0,
                        top_p=1.0 if sampling.top_p is None else sampling.top_p,
                        top_k=sampling.top_k or 0,
                        min_p=sampling.min_p or 0.0,
                        typical_p=sampling.typical_p or 1.0,
                        repetition_penalty=sampling.repetition_penalty or 1.0,
                        presence_penalty=sampling.presence_penalty or 0.0,
                        frequency_penalty=sampling.frequency_penalty or 0.0,
                        logit_bias={int(token): bias for token, bias in (sampling.logit_bias or {}).items()},
                        min_tokens=sampling.min_tokens,
                        # One seed for n choices must not give n equal answers.
                        seed=None if sampling.seed is None else sampling.seed + choice,
                        stop=prepared.stops,
                        eos=prepared.eos,
                        logprobs=prepared.logprobs,
                        prompt_scores=bool(prepared.echoes) and sampling.logprobs is not None,
                        priority=prepared.priority,
                        decode=prepared.decode,
                        constraint=prepared.grammar,
                    )
                )
                if prepared.answers is not None:
                    conversation.readers[sequence] = prepared.answers.reader(choice)
        except BaseException as error:
            self._drop(conversation)
            if isinstance(error, RequestTooLarge):
                raise GatewayError(Kind.CONTEXT_LENGTH, str(error), param=error.param) from error
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
        batch = []
        for output in self._engine.step():
            conversation = self._by_sequence.get(output.id)
            if conversation is None:  # another choice of its call has failed in this step
                continue
            try:
                events = self._events(output)
            except Exception as error:  # what one answer's text leads to is no reason to end everybody's
                self.abort(conversation.key)
                failure = GatewayError(Kind.INTERNAL, "The answer could not be read")
                failure.__cause__ = error
                events = (Failed(failure),)
            batch.append((conversation.key, events))
        return batch

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
            return (Failed(GatewayError(Kind.INTERNAL, "The model could not take this request")),)
        conversation.completion_tokens += output.tokens
        index = output.id - conversation.sequences.start
        prepared, score = conversation.prepared, output.score
        logprobs = () if score is None else (self._tell.chosen(score, appears=not prepared.chat),)
        finish, text = output.finish, Delta(index, output.text, output.tokens, logprobs)
        reader = conversation.readers.get(output.id)
        if reader is None:
            events: list[Event] = [text] if output.text or logprobs else []
        else:
            thought = reader.thinks
            events, finish = self._read(reader, output, text)
            if thought or reader.thinks:
                conversation.reasoning_tokens += output.tokens
        if prepared.echoes and index in conversation.unechoed:
            conversation.unechoed.discard(index)
            prompt = conversation.prompt_of(index)
            echo = self._tell.echoed(index, prepared.echoes[prompt], prepared.prompts[prompt], output.prompt)
            events.insert(0, echo)
        if finish is not None:
            events.append(Finish(index, finish, output.stop))
            prompt = conversation.prompt_of(index)
            conversation.cached[prompt] = min(conversation.cached.get(prompt, output.cached), output.cached)
        if conversation.contest is not None:
            events = conversation.contest.feed(index, None if score is None else score.logprob, events)
        if finish is not None:
            del self._by_sequence[output.id]
            conversation.running -= 1
            if conversation.running == 0:
                del self._by_call[conversation.key]
                events.append(Done(conversation.usage))
        return tuple(events)

    def _tokens(self, request: Tokenize | Detokenize) -> tuple[Event, ...]:
        model = self._model
        return answer_tokens(
            request,
            tokenizer=model.tokenizer,
            encode=model.renderer.encode,
            write=lambda messages: self._chat(Chat(messages=messages, sampling=OPEN))[0],
            vocabulary=model.vocabulary,
            limit=self._engine.context,
        )

    @cached_property
    def _tell(self) -> TokenTeller:
        return TokenTeller(self._model)

    def _chat(self, request: Chat) -> tuple[list[int], AnswerPlan | None]:
        renderer = self._model.renderer
        if self._style is None:
            return renderer.chat(request.messages), None
        prompt = renderer.chat(request.messages, self._style.ask(request))
        plan = self._style.plan(request, renderer.tail(prompt))
        return prompt, plan

    def _grammar(self, request: Chat | Completion, plan: AnswerPlan | None) -> "Grammar | None":
        """Compile what the answer has to be, if anything."""
        asked = constraint_of(request)
        forced = None if plan is None else plan.grammar
        if asked is None and forced is None:
            return None
        if asked is not None and plan is not None and plan.calls is not None:
            raise GatewayError(
                Kind.UNSUPPORTED_PARAMETER,
                f"'{asked.param}' is not supported here together with tools that may be called.",
                param=asked.param,
            )
        if self._grammars is None:
            raise GatewayError(Kind.CAPABILITY, "This model cannot be held to a form of its answers.", param="model")
        if asked is None:
            assert forced is not None and isinstance(request, Chat)  # noqa: S101, PT018 - see above
            auto = request.tool_choice is None or request.tool_choice.mode == "auto"
            try:
                return self._grammars.lark(forced, "tools" if auto else "tool_choice")
            except GatewayError:
                refuse_schemas(self._grammars, request.tools)
                raise
        thinks = None if plan is None else plan.thinks
        if thinks is None or self._style is None or asked.kind == "grammar":
            return compiled(self._grammars, asked)
        return compiled(self._grammars, asked, partial(self._style.after_thinking, thinks=thinks))

    def _read(self, reader: AnswerReader, output: SequenceOutput, said: Delta) -> tuple[list[Event], str | None]:
        """Take a choice's text apart; return what is in it, and whether and why the choice has ended."""
        events, finish = reader.feed(said.text), output.finish
        if finish is None and reader.enough:
            self._engine.abort(output.id)  # the one call that was asked for is complete
            finish = "stop"
        if finish is not None:
            events += reader.close()
            finish = reader.reason(finish)
        if said.logprobs or any(type(event) is Delta for event in events):
            # Counts and log-probabilities go with text, be it empty: nothing else carries them.
            at = next((at for at, event in enumerate(events) if type(event) is Delta), None)
            shown = events.pop(at) if at is not None else None
            text = shown.text if type(shown) is Delta else ""
            events.insert(at or 0, Delta(said.index, text, said.tokens, said.logprobs))
        return events, finish

    def _echoes(self, request: Chat | Completion, prompts: list[list[int]]) -> tuple[Echo, ...]:
        if isinstance(request, Chat) or not request.echo:
            return ()
        pieces = request.sampling.logprobs is not None
        pairs = zip(request.prompts, prompts, strict=True)
        return tuple(self._tell.echo(prompt, ids, pieces=pieces) for prompt, ids in pairs)

    def _drop(self, conversation: Conversation) -> None:
        for sequence in conversation.sequences:
            self._engine.abort(sequence)
            self._by_sequence.pop(sequence, None)


def _room(prompt: list[int], asked: int | None, context: int, field_name: str) -> int:
    """Return how many tokens may follow a prompt.  Raises `GatewayError` where they do not fit."""
    left = context - len(prompt)
    if left < (1 if asked is None else asked):
        wanted = f" and {asked} tokens are to follow" if asked is not None else ""
        raise GatewayError(
            Kind.CONTEXT_LENGTH,
            f"This model's context is {context} tokens: the prompt has {len(prompt)}{wanted}",
            param=field_name if left < 1 else "max_tokens",
        )
    return left if asked is None else asked

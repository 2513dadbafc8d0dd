"""From calls to sequences and back to events, with an engine that does as the test says; no torch."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from illm.backends.local.answers import AnswerStyle
from illm.backends.local.engine import RequestTooLarge, Score, SequenceOutput, SequenceRequest, Stats
from illm.backends.local.text_work import TextWork
from illm.core.events import Delta, Done, Failed, Finish, ToolDelta, Usage
from illm.core.requests import Chat, Completion, Message, Sampling, Text, Tool
from illm.errors import GatewayError, Kind

CONTEXT = 20


@dataclass
class FakeEngine:
    context: int = CONTEXT
    loop: str = "packed"
    loop_reason: str | None = None
    quantized: str = "none"
    added: dict[int, SequenceRequest] = field(default_factory=dict)
    aborted: list[int] = field(default_factory=list)
    outputs: list[SequenceOutput] = field(default_factory=list)
    refuse_from: int | None = None
    refusal: type[Exception] = RequestTooLarge

    def add(self, request: SequenceRequest) -> None:
        if self.refuse_from is not None and request.id >= self.refuse_from:
            raise self.refusal("it cannot")
        self.added[request.id] = request

    def abort(self, key: int) -> None:
        if self.added.pop(key, None):
            self.aborted.append(key)

    def step(self) -> list[SequenceOutput]:
        outputs, self.outputs = self.outputs, []
        return outputs

    @property
    def busy(self) -> bool:
        return bool(self.added)

    @property
    def stats(self) -> Stats:
        return Stats(**dict.fromkeys(Stats.__dataclass_fields__, 0))


class Tokenizer:
    all_special_ids = (2,)

    def decode(self, ids, **options):
        return "".join(map(chr, ids))


class Renderer:
    stops = ("\nUser:",)

    def decode(self, ids):
        return "".join(map(chr, ids))

    def chat(self, messages):
        return [1, *map(ord, messages[-1].text)]

    def raw(self, prompt):
        return [*map(ord, prompt)] if isinstance(prompt, str) else list(prompt)


def model_of(**changes):
    defaults = Sampling(temperature=0.7, top_k=50)
    values = {"renderer": Renderer(), "tokenizer": Tokenizer(), "defaults": defaults, "vocabulary": 1000}
    return SimpleNamespace(**(values | {"eos": frozenset({2})} | changes))


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def work(engine):
    return TextWork(model_of(), engine)


def chat(text="abc", **sampling):
    return Chat(messages=(Message("user", (Text(text),)),), sampling=Sampling(**sampling))


def completion(*prompts, **sampling):
    return Completion(prompts=prompts, sampling=Sampling(**sampling))


def add(work, key, request):
    work.add(key, work.prepare(request))


def said(engine, number, text="", finish=None, tokens=1, **more):
    engine.outputs.append(SequenceOutput(id=number, text=text, tokens=tokens, finish=finish, **more))


def test_the_request_goes_over_the_model_s_defaults_and_those_over_plain_sampling(engine, work):
    add(work, 1, chat(temperature=0.0, max_tokens=4, seed=9, stop=("x",)))
    request = engine.added[0]
    assert (request.temperature, request.top_k, request.top_p, request.repetition_penalty) == (0.0, 50, 1.0, 1.0)
    assert (request.max_new_tokens, request.seed, request.eos) == (4, 9, frozenset({2}))
    assert request.stop == ("x", "\nUser:")


def test_ignore_eos_suspends_the_template_s_stops_but_not_the_client_s(engine, work):
    add(work, 1, chat(ignore_eos=True, stop=("x",)))
    assert (engine.added[0].eos, engine.added[0].stop) == (frozenset(), ("x",))


def test_a_raw_prompt_knows_no_template(engine, work):
    add(work, 1, completion("ab", (5, 6), max_tokens=1))
    assert [list(request.prompt) for request in engine.added.values()] == [[97, 98], [5, 6]]
    assert {request.stop for request in engine.added.values()} == {()}


def test_without_a_limit_an_answer_may_fill_the_context(engine, work):
    add(work, 1, completion("ab"))
    assert engine.added[0].max_new_tokens == CONTEXT - 2


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (chat("a" * CONTEXT), "messages"),
        (completion("a" * CONTEXT), "prompt"),
        (completion("a" * 10, max_tokens=11), "max_tokens"),
        (completion("ok", "a" * 10, max_tokens=11), "max_tokens"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_field_at_fault(work, request_, param):
    with pytest.raises(GatewayError) as refused:
        work.prepare(request_)
    assert (refused.value.kind, refused.value.param) == (Kind.CONTEXT_LENGTH, param)


def test_what_just_fits_is_taken(engine, work):
    add(work, 1, completion("a" * 10, max_tokens=10))
    assert engine.added[0].max_new_tokens == 10


def test_choices_get_their_own_seeds_and_indices(engine, work):
    add(work, 1, completion("a", "b", n=2, seed=5, max_tokens=2))
    assert [(chr(r.prompt[0]), r.seed) for r in engine.added.values()] == [("a", 5), ("a", 6), ("b", 7), ("b", 8)]
    said(engine, 2, "x")
    said(engine, 0, "y")
    assert work.step() == [(1, (Delta(2, "x", 1),)), (1, (Delta(0, "y", 1),))]


def test_the_last_choice_to_finish_closes_the_call(engine, work):
    add(work, 7, completion("ab", n=2, max_tokens=5))
    said(engine, 1, "x", "stop")
    assert work.step() == [(7, (Delta(1, "x", 1), Finish(1, "stop")))]
    said(engine, 0, "y", tokens=2)
    said(engine, 0, "", "length")
    assert work.step() == [
        (7, (Delta(0, "y", 2),)),
        (7, (Finish(0, "length"), Done(Usage(prompt_tokens=2, completion_tokens=4)))),
    ]
    work.abort(7)  # answered and forgotten
    assert (engine.aborted, work._by_call, work._by_sequence) == ([], {}, {})


def test_a_held_back_token_says_nothing_and_counts_in_the_usage(engine, work):
    add(work, 7, chat(max_tokens=3))
    said(engine, 0, "")
    said(engine, 0, "é", "stop")
    assert work.step() == [(7, ()), (7, (Delta(0, "é", 1), Finish(0, "stop"), Done(Usage(4, 2))))]


def test_a_prompt_counts_as_cached_as_far_as_nobody_computed_it(engine, work):
    """Its second choice found what the first had computed: that was not free."""
    add(work, 1, completion("abcd", "efgh", n=2, max_tokens=5))
    for number, cached in ((1, 3), (0, 1), (2, 2), (3, 3)):
        said(engine, number, "", "stop", cached=cached)
    assert work.step()[-1] == (1, (Finish(3, "stop"), Done(Usage(8, 4, cached_tokens=1 + 2))))


def test_priority_reaches_the_engine(engine, work):
    add(work, 1, chat())
    add(work, 2, replace(chat(), priority=-3))
    add(work, 3, replace(completion("a", n=2), priority=7))
    assert [request.priority for request in engine.added.values()] == [0, -3, 7, 7]


def test_calls_side_by_side_do_not_mix(engine, work):
    add(work, 1, chat("a"))
    add(work, 2, completion("b", n=2))
    said(engine, 2, "second")
    said(engine, 0, "first")
    assert work.step() == [(2, (Delta(1, "second", 1),)), (1, (Delta(0, "first", 1),))]


def test_aborting_takes_every_choice_out(engine, work):
    add(work, 1, completion("a", n=3))
    work.abort(1)
    work.abort(1)
    work.abort(99)
    assert engine.aborted == [0, 1, 2]
    assert not work.busy
    add(work, 2, chat())
    assert list(engine.added) == [3]  # ids are never used again


def test_aborted_after_one_choice_has_finished(engine, work):
    add(work, 1, completion("a", n=2))
    said(engine, 0, "x", "stop")
    del engine.added[0]
    work.step()
    work.abort(1)
    assert (engine.aborted, work._by_call, work._by_sequence) == ([1], {}, {})


@pytest.mark.parametrize(("refusal", "raised"), [(RequestTooLarge, GatewayError), (ValueError, ValueError)])
def test_a_choice_that_is_refused_takes_the_others_with_it(engine, work, refusal, raised):
    engine.refuse_from, engine.refusal = 2, refusal
    with pytest.raises(raised):
        add(work, 1, completion("a", n=3))
    assert engine.aborted == [0, 1]
    assert not work.busy
    assert (work._by_call, work._by_sequence) == ({}, {})


def test_log_probabilities_go_with_text_be_it_empty(engine):
    """A call has none to carry them, and each token's must reach the client."""
    template = "{{ tools }}<tool_call>"
    renderer = Renderer()
    renderer.chat = lambda messages, asked: [1, *map(ord, messages[-1].text)]
    renderer.tail, renderer.token = lambda prompt: "", chr
    model = model_of(renderer=renderer, defaults=Sampling())
    work = TextWork(model, engine, AnswerStyle(template, frozenset({"tools"}), {}))
    add(work, 1, replace(chat(logprobs=0), tools=(Tool("f"),)))
    for text in ("a<", 'tool_call>{"name": "f", ', '"arguments": {"x": ', "1}}</tool_call>"):
        score = Score(token=97, logprob=-1.0, text=text)
        engine.outputs.append(SequenceOutput(id=0, text=text, tokens=1, finish=None, score=score))
    said(engine, 0, "", "stop")
    events = [event for _, events in work.step() for event in events]
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "a"
    assert sum(len(event.logprobs) for event in events if isinstance(event, Delta)) == 4
    assert "".join(event.arguments for event in events if isinstance(event, ToolDelta)) == '{"x": 1}'
    assert events[-2:] == [Finish(0, "tool_calls"), Done(Usage(4, 5))]


def test_one_call_that_is_complete_ends_the_sequence(engine):
    renderer = Renderer()
    renderer.chat, renderer.tail = lambda messages, asked: [1], lambda prompt: ""
    model = model_of(renderer=renderer, defaults=Sampling())
    work = TextWork(model, engine, AnswerStyle("{{ tools }}<tool_call>", frozenset({"tools"}), {}))
    add(work, 1, replace(chat(), tools=(Tool("f"),), parallel_tool_calls=False))
    said(engine, 0, '<tool_call>{"name": "f"}')
    [(_, events)] = work.step()
    assert events[-2:] == (Finish(0, "tool_calls"), Done(Usage(1, 1)))
    assert (engine.aborted, work._by_call, work._by_sequence) == ([0], {}, {})


def test_counters_for_health(work):
    described = work.describe()
    assert described["context"] == CONTEXT
    assert described["engine"]["running"] == 0
    assert described["loop"] == "packed"


def test_an_answer_that_cannot_be_read_ends_its_own_call_only(engine, work, monkeypatch):
    add(work, 1, chat("a", n=2))
    add(work, 2, chat("b"))
    reading = TextWork._events
    monkeypatch.setattr(TextWork, "_events", lambda self, output: 1 / 0 if output.id == 0 else reading(self, output))
    for number in range(3):
        said(engine, number, "x")
    batch = dict(work.step())
    [failed] = batch[1]
    assert isinstance(failed, Failed)
    assert failed.error.kind is Kind.INTERNAL
    assert isinstance(failed.error.__cause__, ZeroDivisionError)
    assert batch[2] == (Delta(0, "x", 1),)
    assert engine.aborted == [0, 1]
    said(engine, 2, "y", "stop")
    [(key, events)] = work.step()
    assert (key, events[-1]) == (2, Done(Usage(2, 2)))

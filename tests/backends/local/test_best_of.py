"""The best of several continuations, an echoed prompt, and what is refused; no torch."""

from dataclasses import replace

import pytest

from backends.local.test_text_work import CONTEXT, FakeEngine, add, chat, completion, model_of
from illm.backends.local.engine import Score, SequenceOutput
from illm.backends.local.text_work import TextWork
from illm.core.events import Delta, Done, Finish, Logprob, Usage
from illm.errors import GatewayError, Kind


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def work(engine):
    return TextWork(model_of(), engine)


def said(engine, number, token, logprob, finish=None, prompt=(), top=()):
    score = Score(token, logprob, top, chr(token))
    engine.outputs.append(SequenceOutput(number, chr(token), 1, finish, score=score, prompt=prompt))


def test_the_likeliest_a_token_are_answered_best_first(engine, work):
    add(work, 1, completion("x", "y", n=2, best_of=3, max_tokens=9, seed=5))
    assert [request.logprobs for request in engine.added.values()] == [0] * 6
    assert [request.seed for request in engine.added.values()] == [5, 6, 7, 8, 9, 10]
    said(engine, 0, ord("a"), -1.0, "stop")
    said(engine, 1, ord("b"), -0.1)
    said(engine, 1, ord("c"), -0.3, "length")
    assert work.step() == [(1, ())] * 3
    said(engine, 3, ord("d"), -2.0, "stop")
    said(engine, 2, ord("e"), -0.5, "stop")
    events = [events for _, events in work.step()]
    assert events[0] == ()
    assert events[1] == (
        *(Delta(0, text, 1) for text in "bc"),
        Finish(0, "length"),
        Delta(1, "e", 1),
        Finish(1, "stop"),
    )
    said(engine, 4, ord("f"), -3.0, "stop")
    said(engine, 5, ord("g"), -1.0, "stop")
    events = work.step()[-1][1]
    assert events == (
        Delta(2, "g", 1),
        Finish(2, "stop"),
        Delta(3, "d", 1),
        Finish(3, "stop"),
        Done(Usage(prompt_tokens=2, completion_tokens=7)),
    )
    assert (work._by_call, work._by_sequence) == ({}, {})


def test_whoever_asked_for_log_probabilities_sees_those_of_the_best(engine, work):
    add(work, 1, completion("x", best_of=2, logprobs=1))
    said(engine, 0, ord("a"), -1.0, "stop", top=((ord("z"), -0.2),))
    said(engine, 1, ord("b"), -0.5, "stop", top=((ord("b"), -0.5),))
    delta = work.step()[-1][1][0]
    assert (delta.index, delta.text, delta.logprobs[0].logprob) == (0, "b", -0.5)


def test_a_completion_s_token_is_among_its_alternatives_and_a_chat_s_need_not_be(engine, work):
    add(work, 1, completion("x", logprobs=1))
    add(work, 2, chat(logprobs=1))
    for number in (0, 1):
        said(engine, number, ord("a"), -2.0, top=((ord("z"), -0.2),))
    completed, chatted = (events[0].logprobs[0] for _, events in work.step())
    assert [one.token for one in completed.top] == ["z", "a"]
    assert [one.token for one in chatted.top] == ["z"]


def test_an_echoed_prompt_comes_first_and_once(engine, work):
    add(work, 1, replace(completion("ab", n=2, max_tokens=4), echo=True))
    assert not any(request.prompt_scores for request in engine.added.values())
    for _ in range(2):
        engine.outputs += [SequenceOutput(number, "x", 1, None) for number in (0, 1)]
    assert [events for _, events in work.step()] == [
        (Delta(0, "ab"), Delta(0, "x", 1)),
        (Delta(1, "ab"), Delta(1, "x", 1)),
        (Delta(0, "x", 1),),
        (Delta(1, "x", 1),),
    ]


def test_an_echoed_prompt_with_its_log_probabilities_and_nothing_after_it(engine, work):
    add(work, 1, replace(completion("ab", max_tokens=0, logprobs=0), echo=True))
    assert (engine.added[0].prompt_scores, engine.added[0].max_new_tokens) == (True, 0)
    engine.outputs.append(SequenceOutput(0, "", 0, "length", prompt=(Score(98, -1.5),)))
    first = Logprob("a", None, b"a", (), 97)
    second = Logprob("b", -1.5, b"b", (Logprob("b", -1.5, b"b", id=98),), 98)
    assert work.step() == [(1, (Delta(0, "ab", 0, (first, second)), Finish(0, "length"), Done(Usage(2, 0))))]


def test_a_whole_context_may_be_echoed(work):
    work.prepare(replace(completion("a" * CONTEXT, max_tokens=0), echo=True))


def test_the_controls_reach_the_engine(engine, work):
    controls = {"min_p": 0.1, "typical_p": 0.9, "presence_penalty": 1.0, "frequency_penalty": -1.0, "min_tokens": 2}
    add(work, 1, chat(**controls, logit_bias={"7": 2.0, "08": -1.0}, stop_token_ids=(5, 6), ignore_eos=True))
    request = engine.added[0]
    assert {name: getattr(request, name) for name in controls} == controls
    assert request.logit_bias == {7: 2.0, 8: -1.0}
    assert request.eos == {5, 6}, "only the model's own are ignored"


def asking(request, **body):
    return replace(request, body=body)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (completion("x", n=3, best_of=2), "best_of"),
        (replace(completion("x", best_of=2), stream=True), "best_of"),
        (completion(*"xyz", best_of=100), "best_of"),
        (completion(*"xyz", n=100), "n"),
        (completion(*"x" * 257), "prompt"),
        (completion("x", logit_bias={"1000": 1.0}), "logit_bias"),
        (completion("x", stop_token_ids=(1000,)), "stop_token_ids"),
        (completion("x", min_tokens=3, max_tokens=2), "min_tokens"),
        (completion("x", logprobs=21), "logprobs"),
        (chat(logprobs=21), "top_logprobs"),
        (asking(chat(), top_logprobs=2), "top_logprobs"),
        (asking(completion("x"), top_logprobs=2), "top_logprobs"),
        (asking(chat(), echo=True), "echo"),
    ],
)
def test_what_cannot_be_is_refused_by_name(work, request_, param):
    with pytest.raises(GatewayError) as refused:
        work.prepare(request_)
    assert (refused.value.kind, refused.value.param) == (Kind.INVALID_REQUEST, param)

"""The two threads by themselves: what they post, when they end, and what they let go of."""

import gc
import queue
import threading
import weakref
from dataclasses import replace

import pytest

from illm.actors.call import Call
from illm.actors.inbox import Inbox
from illm.backends.local import threads
from illm.backends.local.threads import EngineThread, Outbox
from illm.backends.local.work import Gradual
from illm.core.capabilities import Capability
from illm.core.events import Delta, Failed
from illm.core.requests import Chat, Constraint, Image, Message, Sampling
from illm.errors import GatewayError, Kind

from .fakes import DONE, PATIENCE, Gate, Letters, chat

pytestmark = pytest.mark.usefixtures("stray_mailboxes")


class Loop:
    """What a loop is to the threads: a queue of callbacks, run by the test."""

    def __init__(self) -> None:
        self.posted: queue.SimpleQueue = queue.SimpleQueue()
        self.ended = False

    def post(self, callback) -> bool:
        if not self.ended:
            self.posted.put(callback)
        return not self.ended

    def run_one(self) -> None:
        self.posted.get(timeout=PATIENCE)()


class Engine:
    """An engine thread and everything it has told."""

    def __init__(self, load) -> None:
        self.loop = Loop()
        self.got: dict[int, list] = {}
        self.told: list[str] = []
        self.error: BaseException | None = None
        self.gone = threading.Event()
        self.loaded = threading.Event()
        self.outbox = Outbox(self.loop.post, self.deliver)
        self.thread = EngineThread(
            "test", load, self.outbox, loaded=self.note_loaded, ended=self.note_ended, gone=self.note_gone
        )
        self.inbox = Inbox(1000)

    def deliver(self, batch) -> None:
        for key, events in batch:
            self.got.setdefault(key, []).extend(events)

    def note_loaded(self, work) -> None:
        self.told.append("loaded")
        self.loaded.set()

    def note_ended(self, error) -> None:
        self.told.append("ended")
        self.error = error

    def note_gone(self) -> None:
        self.told.append("gone")
        self.gone.set()

    def start(self) -> "Engine":
        self.thread.start()
        assert self.loaded.wait(PATIENCE)
        return self

    def ask(self, key: int, text: str) -> Call:
        call = self.inbox.admit(chat(text))
        assert self.inbox.take_nowait() is call
        self.thread.submit(key, call)
        return call

    def until(self, condition) -> None:
        while not condition():
            self.loop.run_one()

    def stop(self) -> None:
        self.thread.stop()
        assert self.gone.wait(PATIENCE)


@pytest.fixture
def work():
    return Letters()


@pytest.fixture
def engine(work):
    engine = Engine(lambda: work).start()
    yield engine
    work.preparing.open()
    work.stepping.open()
    engine.stop()


def test_an_outbox_wakes_the_loop_once_for_all_that_gathered():
    loop, got = Loop(), []
    outbox = Outbox(loop.post, got.extend)
    for key in range(3):
        assert outbox.put([(key, (DONE,))])
    assert loop.posted.qsize() == 1
    loop.run_one()
    assert [key for key, _ in got] == [0, 1, 2]
    outbox.put([(3, (DONE,))])
    assert loop.posted.qsize() == 1


def test_an_outbox_loses_nothing_between_many_threads():
    loop, got = Loop(), []
    outbox = Outbox(loop.post, got.extend)
    count, writers = 500, 4
    finished = threading.Barrier(writers + 1)

    def write(writer):
        for number in range(count):
            outbox.put([(writer * count + number, ())])
        finished.wait(PATIENCE)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    while len(got) < count * writers:
        loop.run_one()
    finished.wait(PATIENCE)
    for thread in threads:
        thread.join()
    keys = [key for key, _ in got]
    assert sorted(keys) == list(range(count * writers))
    for writer in range(writers):
        mine = [key for key in keys if key // count == writer]
        assert mine == sorted(mine)  # and in each writer's order


def test_a_call_is_prepared_in_one_thread_and_stepped_in_the_other(engine, work):
    engine.ask(7, "abc")
    engine.until(lambda: DONE in engine.got.get(7, ()))
    assert engine.got[7] == [Delta(0, "a", 1), Delta(0, "b", 1), Delta(0, "c", 1), DONE]
    assert work.threads == {"illm-engine-test"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("too long", Kind.CONTEXT_LENGTH),
        ("unpreparable", Kind.INTERNAL),
        ("panic", Kind.INTERNAL),
        ("no room", Kind.CONTEXT_LENGTH),
        ("unaddable", Kind.INTERNAL),
    ],
)
def test_what_one_request_raises_is_posted_and_the_next_is_answered(engine, text, kind):
    engine.ask(1, text)
    engine.ask(2, "b")
    engine.until(lambda: len(engine.got) == 2)
    [failed] = engine.got[1]
    assert isinstance(failed, Failed)
    assert failed.error.kind is kind
    assert "secret" not in failed.error.message
    assert engine.got[2] == [Delta(0, "b", 1), DONE]


def test_words_do_not_wait_behind_images(engine, work):
    look, seeing = Gate(), work.prepare

    def prepare(request):
        if request.needs is Capability.IMAGES:
            look.pass_()
            return "x"
        return seeing(request)

    work.prepare = prepare
    look.shut()
    image = Chat(messages=(Message("user", (Image(base64="AA"),)),), sampling=Sampling())
    for key, request in enumerate((image, image, chat("abc"))):
        engine.thread.submit(key, engine.inbox.admit(request))
        engine.inbox.take_nowait()
    assert look.reached.wait(PATIENCE)
    engine.until(lambda: DONE in engine.got.get(2, ()))
    assert not {0, 1} & engine.got.keys()
    look.open()
    engine.until(lambda: DONE in engine.got.get(1, ()))


def test_who_wants_a_form_waits_for_other_forms_only_and_not_for_ever(engine, work, monkeypatch):
    make, writing = Gate(), work.prepare

    def prepare(request):
        if request.constraints:
            make.pass_()
            return "x"
        return writing(request)

    work.prepare = prepare
    make.shut()
    formed = replace(chat("abc"), constraints=(Constraint("regex", "a+", "regex"),))
    engine.thread.submit(0, engine.inbox.admit(formed))
    assert make.reached.wait(PATIENCE)
    engine.thread.submit(1, engine.inbox.admit(chat("abc")))
    engine.until(lambda: DONE in engine.got.get(1, ()))
    assert engine.thread.stuck_for < PATIENCE
    monkeypatch.setattr(threads, "FORM_LIMIT", 0.0)
    engine.thread.submit(2, engine.inbox.admit(formed))
    engine.until(lambda: 2 in engine.got)
    [failed] = engine.got[2]
    assert failed.error.kind is Kind.OVERLOADED
    assert engine.thread.stuck_for == 0.0  # it hinders nobody else, so the engine is not wedged
    make.open()
    engine.until(lambda: DONE in engine.got.get(0, ()))
    for _ in range(3):
        engine.inbox.take_nowait()


def test_a_form_for_an_image_holds_up_no_image_and_wedges_nothing(engine, work):
    make = Gate()

    def prepare(request):
        if request.constraints:
            make.pass_()
        return "x"

    work.prepare = prepare
    make.shut()
    image = Chat(messages=(Message("user", (Image(base64="AA"),)),), sampling=Sampling())
    engine.thread.submit(0, engine.inbox.admit(replace(image, constraints=(Constraint("regex", "a+", "regex"),))))
    assert make.reached.wait(PATIENCE)
    engine.thread.submit(1, engine.inbox.admit(image))
    engine.until(lambda: DONE in engine.got.get(1, ()))
    assert engine.thread.stuck_for == 0.0
    make.open()
    engine.until(lambda: DONE in engine.got.get(0, ()))
    for _ in range(2):
        engine.inbox.take_nowait()


def test_aborted_before_its_prompt_s_turn_it_is_never_prepared_and_not_kept(engine, work):
    work.preparing.shut()
    engine.ask(1, "a")
    assert work.preparing.reached.wait(PATIENCE)
    call = engine.ask(2, "b")
    request = call.request
    call.leave()
    call.finish()
    engine.thread.abort(2)
    del call
    gc.collect()
    assert not any(type(thing) is Call and thing.request is request for thing in gc.get_objects())
    engine.ask(3, "c")
    work.preparing.open()
    engine.until(lambda: 3 in engine.got)
    assert work.prepared == ["a", "c"]
    assert 2 not in engine.got


def test_aborted_while_it_is_prepared_it_is_never_added(engine, work):
    work.preparing.shut()
    call = engine.ask(1, "a")
    assert work.preparing.reached.wait(PATIENCE)
    call.leave()
    engine.thread.abort(1)
    work.preparing.open()
    engine.ask(2, "b")
    engine.until(lambda: 2 in engine.got)
    assert 1 not in engine.got
    assert work.aborted == []


class Slowly:
    """Prepares in three pieces, the second behind a gate."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.gate.shut()
        self.done: list[int] = []
        self.closed = threading.Event()

    def prepare(self, request) -> Gradual:
        return Gradual(self._pieces(request.messages[0].text))

    def _pieces(self, text):
        try:
            for piece in range(3):
                if piece == 1:
                    self.gate.pass_()
                if text == "broken" and piece == 2:
                    raise GatewayError(Kind.INVALID_REQUEST, "broken")
                self.done.append(piece)
                yield text if piece == 2 else None
        finally:
            self.closed.set()


def test_what_is_prepared_in_pieces_is_taken_up_when_all_are_done(engine, work):
    slowly = Slowly()
    work.prepare = slowly.prepare
    slowly.gate.open()
    engine.ask(1, "a")
    engine.ask(2, "broken")
    engine.until(lambda: DONE in engine.got.get(1, ()) and 2 in engine.got)
    assert slowly.done == [0, 1, 2, 0, 1]
    assert [event.error.message for event in engine.got[2]] == ["broken"]


@pytest.mark.parametrize("how", ["left", "stopped"])
def test_no_further_piece_is_prepared_for_nobody(engine, work, how):
    slowly = Slowly()
    work.prepare = slowly.prepare
    call = engine.ask(1, "a")
    assert slowly.gate.reached.wait(PATIENCE)
    if how == "left":
        call.leave()
        engine.thread.abort(1)
    else:
        engine.thread.stop()
    slowly.gate.open()
    assert slowly.closed.wait(PATIENCE)
    assert slowly.done == [0, 1]
    if how == "left":
        engine.ask(2, "b")
        engine.until(lambda: DONE in engine.got.get(2, ()))
    else:
        assert engine.gone.wait(PATIENCE)
    assert 1 not in engine.got


def test_aborted_while_it_decodes_it_leaves_before_the_next_step(engine, work):
    call = engine.ask(1, "…" * 2)
    work.stepping.shut()
    assert work.stepping.reached.wait(PATIENCE)
    call.leave()
    engine.thread.abort(1)
    work.stepping.open()
    engine.ask(2, "b")
    engine.until(lambda: 2 in engine.got)
    assert work.running == {}


def test_stopping_ends_both_threads_and_says_so_last(work):
    engine = Engine(lambda: work).start()
    engine.stop()
    assert engine.told == ["loaded", "ended", "gone"]
    assert engine.error is None
    assert not engine.thread.alive


def test_stopping_does_not_wait_for_the_end_of_an_answer(work):
    engine = Engine(lambda: work).start()
    engine.ask(1, "a" * 10**6)
    assert work.stepping.reached.wait(PATIENCE)
    engine.stop()
    assert work.steps < 10**6


def test_a_crash_is_told_at_once_though_a_prompt_is_still_in_work(work):
    engine = Engine(lambda: work).start()
    work.stepping.shut()
    engine.ask(1, "abc")
    assert work.stepping.reached.wait(PATIENCE)
    work.preparing.shut()
    engine.ask(2, "b")
    assert work.preparing.reached.wait(PATIENCE)
    work.crash = RuntimeError("boom")
    work.stepping.open()
    engine.thread._engine.join(PATIENCE)
    assert engine.told == ["loaded", "ended"]
    assert engine.thread.alive
    work.preparing.open()
    assert engine.gone.wait(PATIENCE)
    assert not engine.thread.alive
    assert str(engine.error) == "boom"


def test_a_load_that_fails_is_told_and_starts_no_prompt_thread():
    def load():
        raise GatewayError(Kind.MODEL_LOAD_FAILED, "no weights")

    engine = Engine(load)
    engine.thread.start()
    assert engine.gone.wait(PATIENCE)
    assert engine.told == ["ended", "gone"]
    assert isinstance(engine.error, GatewayError)


def test_stopped_while_it_loads_it_ends_after_loading(work):
    release = threading.Event()

    def load():
        assert release.wait(PATIENCE)
        return work

    engine = Engine(load)
    engine.thread.start()
    engine.thread.stop()
    release.set()
    assert engine.gone.wait(PATIENCE)
    assert engine.told == ["loaded", "ended", "gone"]
    assert work.steps == 0


def test_an_engine_whose_loop_has_ended_stops_by_itself(work):
    engine = Engine(lambda: work).start()
    engine.loop.ended = True
    engine.ask(1, "a" * 10**6)
    assert engine.gone.wait(PATIENCE)
    assert work.steps == 1


@pytest.mark.parametrize("stage", ["load", "step"])
def test_an_error_that_somebody_keeps_does_not_keep_the_model(stage):
    class Weights(Letters):
        def step(self):
            layer = self  # a frame's local, as a forward has many
            raise RuntimeError("boom") from ValueError(type(layer).__name__)

    seen = []

    def load():
        work = Weights()
        seen.append(weakref.ref(work))
        if stage == "load":
            raise GatewayError(Kind.MODEL_LOAD_FAILED, "half")
        return work

    engine = Engine(load)
    engine.thread.start()
    if stage == "step":
        engine.ask(1, "a")
    assert engine.gone.wait(PATIENCE)
    engine.thread._engine.join(PATIENCE)
    assert engine.error is not None
    gc.collect()
    assert seen[0]() is None


def test_a_step_or_a_prompt_that_takes_long_can_be_seen(engine, work):
    assert engine.thread.stuck_for == 0
    work.preparing.shut()
    engine.ask(1, "abc")
    assert work.preparing.reached.wait(PATIENCE)
    assert engine.thread.stuck_for > 0
    work.stepping.shut()
    work.preparing.open()
    assert work.stepping.reached.wait(PATIENCE)
    assert engine.thread.stuck_for > 0
    work.stepping.open()
    engine.until(lambda: DONE in engine.got.get(1, ()))
    engine.stop()
    assert engine.thread.stuck_for == 0

"""The mailbox: who is counted, who is refused, and that nobody is lost."""

import anyio
import pytest
from acting import DONE, answer, chat
from hypothesis import strategies
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from illm.actors.inbox import Inbox
from illm.core.events import Failed
from illm.errors import GatewayError, Kind

pytestmark = pytest.mark.usefixtures("stray_mailboxes")

LIMIT = 3


class Accounting(RuleBasedStateMachine):
    """Callers and actor in any order, against two lists."""

    queued = Bundle("queued")

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox(LIMIT)
        self.waiting: list = []
        self.active: list = []

    @rule(target=queued)
    def admit(self):
        if len(self.waiting) < LIMIT:
            call = self.inbox.admit(chat())
            self.waiting.append(call)
            return call
        with pytest.raises(GatewayError) as refused:
            self.inbox.admit(chat())
        assert refused.value.kind is Kind.OVERLOADED
        return None

    @rule(call=consumes(queued))
    def leave(self, call):
        if call is None:
            return
        call.leave()
        if call in self.waiting:
            self.waiting.remove(call)
        call.leave()

    @rule()
    def take(self):
        call = self.inbox.take_nowait()
        assert call is (self.waiting.pop(0) if self.waiting else None)
        if call is not None:
            assert call.taken_at is not None
            self.active.append(call)

    @rule(which=strategies.integers(0, 5))
    def finish(self, which):
        if self.active:
            call = self.active.pop(which % len(self.active))
            call.finish(DONE)
            call.finish()

    @rule()
    def crash(self):
        self.inbox.abandon()
        assert all(call.reply.closed for call in self.active)
        self.active.clear()

    @rule()
    def refuse(self):
        self.inbox.refuse(GatewayError(Kind.NOT_READY, "no"))
        assert all(call.reply.closed for call in self.waiting)
        self.waiting.clear()

    @invariant()
    def counts(self):
        assert self.inbox.waiting == len(self.waiting)
        assert self.inbox.active == set(self.active)


TestAccounting = Accounting.TestCase


@pytest.mark.anyio
async def test_a_taker_waits_for_the_next_call():
    inbox, taken = Inbox(2), []

    async def take():
        taken.append(await inbox.take())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        tasks.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        first = inbox.admit(chat())
        await anyio.wait_all_tasks_blocked()
        assert taken == [first]
        second = inbox.admit(chat())
    assert taken == [first, second]


@pytest.mark.anyio
async def test_a_taker_cancelled_as_a_call_arrives_leaves_it_to_the_next():
    inbox = Inbox(2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(inbox.take)
        await anyio.wait_all_tasks_blocked()
        call = inbox.admit(chat())
        tasks.cancel_scope.cancel()
    # Whether the cancelled one got it depends on the loop; lost it must not be.
    assert call in inbox.active or inbox.take_nowait() is call


@pytest.mark.anyio
async def test_a_cancelled_taker_takes_nothing_that_waits_already():
    inbox = Inbox(2)
    call = inbox.admit(chat())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await inbox.take()
    assert inbox.take_nowait() is call


@pytest.mark.anyio
async def test_closing_answers_those_who_wait_and_those_whose_work_runs_and_later_ones():
    inbox = Inbox(4)
    taken, waiting = inbox.admit(chat()), inbox.admit(chat())
    await inbox.take()
    inbox.close(GatewayError(Kind.SHUTTING_DOWN, "bye"))
    inbox.close(GatewayError(Kind.NOT_READY, "the first reason counts"))
    for call in (taken, waiting):
        [event] = await answer(call)
        assert isinstance(event, Failed)
        assert event.error.kind is Kind.SHUTTING_DOWN
    errors = []
    for _ in range(2):
        with pytest.raises(GatewayError, match="bye") as refused:
            inbox.admit(chat())
        errors.append(refused.value)
    assert errors[0] is not errors[1]
    assert (inbox.waiting, inbox.active) == (0, set())


def test_a_call_may_be_answered_before_handing_it_over_returns():
    inbox = Inbox(2)
    inbox.direct = lambda call: call.finish(DONE) is None
    call = inbox.admit(chat())
    assert call.taken_at is not None
    assert (call.reply.closed, inbox.active, inbox.waiting) == (True, set(), 0)


def test_a_call_that_nobody_takes_at_once_waits():
    inbox = Inbox(2)
    inbox.direct = lambda call: False
    call = inbox.admit(chat())
    assert (call.taken_at, inbox.active, inbox.waiting) == (None, set(), 1)
    assert inbox.take_nowait() is call


def test_who_waits_too_long_is_told_counted_from_when_it_was_first_looked_at():
    inbox, late = Inbox(4), GatewayError(Kind.TIMEOUT, "late")
    old = inbox.admit(chat())
    inbox.overdue(10.0, 5.0, late)
    young = inbox.admit(chat())
    inbox.overdue(14.9, 5.0, late)
    assert inbox.waiting == 2
    inbox.overdue(15.0, 5.0, late)
    assert (old.reply.closed, young.reply.closed, inbox.waiting) == (True, False, 1)
    [failed] = old.reply.take_nowait()
    assert isinstance(failed, Failed)
    assert (failed.error.kind, failed.error is late) == (Kind.TIMEOUT, False)
    assert inbox.take_nowait() is young
    assert inbox.take_nowait() is None

"""Intensity, period and backoff on a clock that jumps."""

import itertools

import pytest
import trio
from acting import a_ref, crash, echo

from illm.actors.ref import State
from illm.actors.supervisor import Policy, supervise

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("stray_mailboxes")]


async def test_backoff_doubles_then_quarantine_then_another_try(autojump_clock):
    began = []

    async def fail(inbox, ready):
        began.append(trio.current_time())
        raise RuntimeError("boom")

    ref = a_ref(fail, fail, fail, fail, echo)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, ref, Policy(intensity=3, period=60, backoff=1))
        await trio.sleep(59)
        assert ref.state is State.FAILED
        await trio.sleep(20)
        assert ref.state is State.READY
        nursery.cancel_scope.cancel()
    start = began[0]
    assert [time - start for time in began] == pytest.approx([0, 1, 3, 7])


async def test_crashes_far_apart_are_forgotten(autojump_clock):
    began = []

    async def live_an_hour(inbox, ready):
        began.append(trio.current_time())
        ready()
        await trio.sleep(3600)
        raise RuntimeError("boom")

    ref = a_ref(live_an_hour)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, ref, Policy(intensity=1, period=60, backoff=1))
        await trio.sleep(5 * 3601 + 1)
        assert ref.state is State.READY
        nursery.cancel_scope.cancel()
    assert ref.restarts == 5
    assert [b - a for a, b in itertools.pairwise(began)] == pytest.approx([3601] * 5)


async def test_backoff_has_a_ceiling(autojump_clock):
    ref = a_ref(crash)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, ref, Policy(intensity=100, period=1000, backoff=1, ceiling=2))
        await trio.sleep(10.5)  # after 1, 2, 2, 2, 2 seconds
        assert ref.restarts == 6
        nursery.cancel_scope.cancel()

"""Which tokens run next, without a model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illm.backends.local.engine.blocks import BLOCK, BlockPool, blocks_for
from illm.backends.local.engine.scheduler import Scheduler
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest


def sequence(number, length, new=10, **options):
    # Nothing in common with one another: what sequences share is in `test_prefix`.
    request = SequenceRequest(id=number, prompt=[number] * length, max_new_tokens=new, **options)
    return LiveSequence(request, lambda ids: "x" * len(ids))


def scheduler(blocks=100, *, max_sequences=8, busy=4, idle=16):
    return Scheduler(BlockPool(blocks), max_sequences=max_sequences, busy_chunk=busy, idle_chunk=idle)


def run(planner):
    """Do what the engine does with a plan, every sampled token a 1; return `(id, start, size, samples)`."""
    pieces, _ = planner.plan()
    for piece in pieces:
        piece.sequence.computed += piece.size
    planner.settle(pieces)
    for piece in pieces:
        if piece.samples and piece.sequence.accept(1).finish is not None:
            planner.remove(piece.sequence)
    return [(piece.sequence.request.id, piece.start, piece.size, piece.samples) for piece in pieces]


def test_an_idle_engine_prefills_in_large_chunks_and_a_busy_one_in_small():
    planner = scheduler()
    planner.add(sequence(1, 20))
    assert run(planner) == [(1, 0, 16, False)]
    assert run(planner) == [(1, 16, 4, True)]
    planner.add(sequence(2, 9))
    assert run(planner) == [(1, 20, 1, True), (2, 0, 4, False)]
    assert run(planner) == [(1, 21, 1, True), (2, 4, 4, False)]
    assert run(planner) == [(1, 22, 1, True), (2, 8, 1, True)]
    assert run(planner) == [(1, 23, 1, True), (2, 9, 1, True)]


def test_a_step_is_filled_up_from_the_queue_in_order_of_arrival():
    planner = scheduler()
    for number, length in ((1, 6), (2, 6), (3, 6), (4, 6)):
        planner.add(sequence(number, length))
    assert run(planner) == [(1, 0, 6, True), (2, 0, 6, True), (3, 0, 4, False)]
    assert run(planner) == [(1, 6, 1, True), (2, 6, 1, True), (3, 4, 2, True), (4, 0, 2, False)]


def test_no_more_sequences_run_than_allowed():
    planner = scheduler(max_sequences=2)
    for number in (1, 2, 3):
        planner.add(sequence(number, 2, new=2))
    assert [piece[0] for piece in run(planner)] == [1, 2]
    assert [piece[0] for piece in run(planner)] == [1, 2]
    assert [piece[0] for piece in run(planner)] == [3]


def test_admission_asks_for_the_prompt_and_not_for_the_answer():
    planner = scheduler(blocks=3, idle=1000)
    planner.add(sequence(1, BLOCK, new=2 * BLOCK))
    planner.add(sequence(2, BLOCK, new=2 * BLOCK))
    assert [piece[0] for piece in run(planner)] == [1, 2]


def test_a_newcomer_waits_when_those_who_run_would_soon_need_its_memory():
    planner = scheduler(blocks=4, idle=1000)
    planner.add(sequence(1, BLOCK - 2, new=5))
    run(planner)
    planner.add(sequence(2, 3 * BLOCK, new=1))
    while planner.running:
        assert [piece[0] for piece in run(planner)] == [1]
    assert [piece[0] for piece in run(planner)] == [2]
    assert planner.preemptions == 0


def test_when_memory_runs_out_the_youngest_makes_room_and_comes_back():
    planner = scheduler(blocks=3, idle=1000, busy=1000)
    first, second = sequence(1, BLOCK, new=BLOCK + 4), sequence(2, BLOCK, new=8)
    planner.add(first)
    planner.add(second)
    run(planner)
    # Both need their second block now and there is one: the older gets it.
    assert run(planner) == [(1, BLOCK, 1, True)]
    assert planner.preemptions == 1
    assert (planner.running, list(planner.waiting)) == ([first], [second])
    assert (second.computed, second.blocks, second.generated) == (0, [], 1)
    while first in planner.running:
        assert [piece[0] for piece in run(planner)] == [1]
    assert run(planner) == [(2, 0, BLOCK + 1, True)], "the prompt and what was already said, in one go"
    assert planner.preemptions == 1


def test_the_preempted_go_before_those_who_never_ran():
    planner = scheduler(blocks=3, idle=1000)
    planner.add(sequence(1, BLOCK, new=BLOCK))
    planner.add(sequence(2, BLOCK, new=BLOCK))
    planner.add(sequence(3, 1))
    run(planner)
    run(planner)
    assert [waiting.request.id for waiting in planner.waiting] == [2, 3]


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_removing_frees_the_memory_in_every_state(steps):
    planner = scheduler()
    removed = sequence(1, 20)
    planner.add(removed)
    for _ in range(steps):
        run(planner)
    assert (planner.kv_used > 0) == (steps > 0)
    planner.remove(removed)
    assert planner.kv_used == 0
    assert planner.plan() == ([], [])


def test_a_short_prompt_does_not_wait_for_a_long_one_and_the_long_one_gets_on():
    planner = scheduler(busy=8)
    planner.add(sequence(1, 1, new=100))
    run(planner)
    planner.add(sequence(2, 100))
    assert run(planner)[1:] == [(2, 0, 8, False)]
    planner.add(sequence(3, 7))
    planner.add(sequence(4, 5))
    assert run(planner)[1:] == [(4, 0, 4, False), (2, 8, 4, False)]
    assert run(planner)[1:] == [(4, 4, 1, True), (3, 0, 4, False), (2, 12, 4, False)]
    assert run(planner)[2:] == [(3, 4, 3, True), (2, 16, 5, False)]
    assert run(planner)[3:] == [(2, 21, 8, False)]


def test_the_shortest_come_first_but_the_oldest_always_has_half():
    planner = scheduler(busy=8, max_sequences=50)
    planner.add(sequence(0, 1, new=100))
    run(planner)
    long = sequence(1, 100)
    planner.add(long)
    number = 2
    while long.pending > 1:
        assert number < 60, "a stream of short prompts starves nobody"
        planner.add(sequence(number, 8, new=1))
        number += 1
        run(planner)
    assert number - 2 == -(-100 // 4)


def test_priority_goes_before_arrival():
    planner = scheduler(max_sequences=1)
    for number, priority in ((1, 0), (2, 5), (3, -1), (4, 0), (5, -1)):
        planner.add(sequence(number, 2, new=1, priority=priority))
    assert [run(planner)[0][0] for _ in range(5)] == [3, 5, 1, 4, 2]


def test_the_more_important_prompt_is_computed_first():
    planner = scheduler(busy=8)
    planner.add(sequence(1, 1, new=100))
    run(planner)
    planner.add(sequence(2, 3, priority=1))
    planner.add(sequence(3, 20, priority=-1))
    assert run(planner)[1:] == [(3, 0, 8, False)]
    assert run(planner)[1:] == [(3, 8, 8, False)]
    assert run(planner)[1:] == [(3, 16, 4, True), (2, 0, 3, True)]


def test_the_least_important_makes_room_even_if_it_is_the_oldest():
    planner = scheduler(blocks=3, idle=1000, busy=1000)
    first, second = sequence(1, BLOCK, new=BLOCK, priority=1), sequence(2, BLOCK, new=BLOCK)
    planner.add(first)
    planner.add(second)
    run(planner)
    assert [piece[0] for piece in run(planner)] == [2]
    assert (planner.running, planner.waiting) == ([second], [first])


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 3 * BLOCK), st.integers(1, 2 * BLOCK)), min_size=1, max_size=8
)


@settings(deadline=None, max_examples=60)
@given(ARRIVALS, st.integers(5, 9), st.integers(1, 4), st.integers(1, 40), st.integers(1, 60))
def test_every_sequence_ends_and_no_block_has_two_owners(arrivals, blocks, most, busy, idle):
    planner = scheduler(blocks, max_sequences=most, busy=busy, idle=idle)
    live = []
    step = 0
    waiting = sorted((when, number, length, new) for number, (when, length, new) in enumerate(arrivals))
    while waiting or planner.running or planner.waiting:
        while waiting and waiting[0][0] <= step:
            _, number, length, new = waiting.pop(0)
            live.append(sequence(number, length, new))
            planner.add(live[-1])
        pieces = run(planner)
        assert pieces or waiting
        assert sum(size for _, _, size, _ in pieces if size > 1) <= max(busy, idle)
        held = [block for one in live for block in one.blocks]
        assert len(held) == len(set(held))
        assert len(held) * BLOCK == planner.kv_used
        assert len(planner.running) <= most
        assert all(len(one.blocks) >= blocks_for(one.computed) for one in planner.running)
        step += 1
        assert step < 5000
    assert all(one.generated == one.request.max_new_tokens for one in live)
    assert planner.kv_used == 0


def test_a_growing_sequence_gets_neighbouring_blocks_while_it_can():
    pool = BlockPool(10)
    first, second = [], []
    pool.grow(first, BLOCK)
    pool.grow(second, BLOCK)
    pool.grow(second, 3 * BLOCK)
    pool.grow(first, 2 * BLOCK)
    assert (first, second) == ([0, 4], [1, 2, 3])
    assert not pool.grow(first, 8 * BLOCK)
    assert (first, pool.free, pool.used) == ([0, 4], 5, 5)
    pool.release(second)
    assert (second, pool.free) == ([], 8)

"""What sequences share, without a model: a memory of plain values shows who reads what nobody wrote for it."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from illm.backends.local.engine.blocks import BLOCK, BlockPool
from illm.backends.local.engine.prefix import LEAST, Match, PrefixIndex
from illm.backends.local.engine.scheduler import Scheduler
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest


class Bench:
    """A scheduler over a memory that holds, for each token, what its keys would depend on: all tokens up to it."""

    def __init__(self, blocks=100, *, cache=True, max_sequences=8, busy=4, idle=64):
        self.pool = BlockPool(blocks, cache=cache)
        self.planner = Scheduler(self.pool, max_sequences=max_sequences, busy_chunk=busy, idle_chunk=idle)
        self.memory = {}
        self.live = {}
        self.said = {}

    def add(self, number, prompt, new=3, **options):
        request = SequenceRequest(id=number, prompt=prompt, max_new_tokens=new, **options)
        self.live[number] = sequence = LiveSequence(request, lambda ids: "")
        self.planner.add(sequence)
        return sequence

    def abort(self, number):
        self.planner.remove(self.live.pop(number))

    def step(self):
        """Do what the engine does; return `(id, start, size)` of each piece."""
        pieces, copies = self.planner.plan()
        for source, target, tokens in copies:
            assert 0 < tokens < BLOCK
            for at in range(tokens):
                self.memory[target * BLOCK + at] = self.memory[source * BLOCK + at]
        for sequence, start, size, _ in pieces:
            past = past_of(sequence)
            for position in range(start):
                assert self.memory[slot(sequence, position)] == past[position], "somebody else's past"
            for position in range(start, start + size):
                self.memory[slot(sequence, position)] = past[position]
            sequence.computed += size
        self.planner.settle(pieces)
        self.check()
        for sequence, _, _, samples in pieces:
            if samples and sequence.accept(following(sequence.tokens)).finish is not None:
                self.said[sequence.request.id] = sequence.tokens
                self.abort(sequence.request.id)
        return [(piece.sequence.request.id, piece.start, piece.size) for piece in pieces]

    def run(self):
        steps = [self.step()]
        while self.live:
            steps.append(self.step())
            assert len(steps) < 5000
        return steps

    def check(self):
        """The books are right: every block is held as often as it is, and found as what it is."""
        pool = self.pool
        held = Counter(block for sequence in self.live.values() for block in sequence.blocks)
        assert [held[block] for block in range(pool.total)] == pool._holders
        assert pool._free.keys().isdisjoint(pool._idle)
        assert {block for block in range(pool.total) if not held[block]} == pool._free.keys() | pool._idle.keys()
        assert pool.used == len(held)
        if pool._index is None:
            return
        assert all(block in pool._index for block in pool._idle)
        order = {block: at for at, block in enumerate(pool._idle)}
        for block, (parent, tokens) in pool._index._places.items():
            assert pool._index.child(parent, tokens) == block
            if isinstance(parent, int):
                assert parent in pool._index, "a block outlives the one before it"
                assert len(pool._index._places[parent][1]) == BLOCK
                assert held[parent] >= held[block]
                if parent in order:
                    assert order[block] < order[parent], "the last goes first"


def slot(sequence, position):
    return sequence.blocks[position // BLOCK] * BLOCK + position % BLOCK


def past_of(sequence):
    # Numbers that stand for all tokens so far, cheaply.
    past, number = [], hash(sequence.salt)
    for token in sequence.tokens:
        number = hash((number, token))
        past.append(number)
    return past


def following(tokens):
    return hash(tuple(tokens)) % 3


def text(length, seed=0, before=()):
    dice = random.Random(seed)
    return [*before, *(dice.randrange(50) for _ in range(length - len(before)))]


def test_a_second_sequence_computes_what_it_does_not_share():
    bench = Bench()
    shared = text(110)
    bench.add(1, text(120, 1, shared), new=1)
    bench.run()
    assert (bench.planner.kv_used, bench.planner.kv_cached) == (0, 4 * BLOCK)
    second = bench.add(2, text(120, 2, shared), new=1)
    assert bench.step() == [(2, 110, 10)]
    assert (second.cached, bench.planner.prefix_hits, bench.planner.prefix_tokens) == (110, 1, 110)


@pytest.mark.parametrize("length", [LEAST + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_the_same_again_computes_one_token(length):
    bench = Bench()
    for number in (1, 2):
        bench.add(number, text(length), new=1)
        steps = bench.run()
    assert steps == [[(2, length - 1, 1)]]


@pytest.mark.parametrize("length", [1, LEAST, 2 * BLOCK + LEAST])
def test_a_few_tokens_are_not_worth_a_copy(length):
    bench = Bench()
    for number in (1, 2):
        bench.add(number, text(length), new=1)
        steps = bench.run()
    start = length // BLOCK * BLOCK
    assert steps == [[(2, start, length - start)]]


def test_a_longer_conversation_goes_on_after_the_last_answer():
    bench = Bench()
    bench.add(1, text(50), new=30)
    bench.run()
    history = bench.said[1]
    turn = bench.add(2, [*history, 1, 2, 3], new=1)
    # The last token was said and never computed.
    assert bench.step() == [(2, 79, 4)]
    assert turn.cached == 79


def test_an_answer_does_not_count_as_prompt_that_was_cached():
    bench = Bench()
    bench.add(1, text(50), new=2)
    bench.run()
    again = bench.add(2, text(50), new=2)
    bench.run()
    assert again.cached == 49


def test_choices_of_one_prompt_wait_for_the_first_of_them():
    bench = Bench(idle=64)
    for number in range(4):
        bench.add(number, text(110), new=3)
    assert bench.step() == [(0, 0, 64)]
    assert bench.step() == [(0, 64, 46)]
    assert bench.step() == [(0, 110, 1), *((number, 109, 1) for number in (1, 2, 3))]
    assert bench.planner.kv_used == (3 + 4) * BLOCK


def test_nobody_waits_for_a_few_tokens():
    bench = Bench()
    shared = text(10)
    bench.add(1, text(20, 1, shared))
    bench.add(2, text(20, 2, shared))
    assert bench.step() == [(1, 0, 20), (2, 0, 20)]


def test_nobody_waits_for_the_same_words_in_another_place():
    bench = Bench(idle=40)
    bench.add(1, text(100))
    bench.step()
    second = bench.add(2, text(100)[BLOCK:])
    bench.step()
    assert second in bench.planner.running


def test_who_waits_for_a_prefix_blocks_nobody_behind():
    bench = Bench(idle=64)
    bench.add(1, text(100))
    bench.add(2, text(100))
    bench.add(3, text(5, 3))
    assert bench.step() == [(3, 0, 5), (1, 0, 59)]


def test_the_more_important_does_not_wait_for_the_less_important():
    bench = Bench(idle=64)
    bench.add(1, text(100), priority=1)
    bench.step()
    bench.add(2, text(100))
    bench.step()
    assert bench.live[2].computed > 0


def test_who_waited_goes_on_when_the_other_leaves():
    bench = Bench(idle=40)
    bench.add(1, text(100), new=1)
    bench.add(2, text(100), new=1)
    assert bench.step() == [(1, 0, 40)]
    bench.abort(1)
    assert bench.step() == [(2, 40, 40)]


def test_without_reuse_everything_is_computed_and_others_may_use_it():
    bench = Bench()
    for number in (1, 2):
        alone = bench.add(number, text(80), new=1, reuse=False)
        assert [piece for step in bench.run() for piece in step] == [(number, 0, 64), (number, 64, 16)]
        assert alone.cached == 0
    assert bench.planner.kv_cached == 3 * BLOCK, "and is kept once"
    assert bench.add(3, text(80), new=1)
    assert bench.step() == [(3, 79, 1)]


def test_other_salt_shares_nothing():
    bench = Bench()
    for number, salt in enumerate((b"", b"a", b"b")):
        bench.add(number, text(80), new=1, salt=salt)
    bench.run()
    assert bench.planner.prefix_hits == 0
    assert bench.add(9, text(80), new=1, salt=b"b").request.salt
    assert bench.step() == [(9, 79, 1)]


def test_switched_off_nothing_is_kept_and_nobody_waits():
    bench = Bench(cache=False, idle=400)
    for _ in range(2):
        for number in (1, 2):
            bench.add(number, text(100), new=1)
        assert bench.step() == [(1, 0, 100), (2, 0, 100)]
    assert (bench.planner.kv_cached, bench.planner.prefix_hits, bench.pool.free) == (0, 0, 100)


def test_equal_answers_become_one():
    bench = Bench(idle=400)
    bench.add(1, text(20), new=100, reuse=False)
    bench.add(2, text(20), new=100, reuse=False)
    for _ in range(1 + 80):
        bench.step()
    assert bench.live[1].blocks[:3] == bench.live[2].blocks[:3]
    assert bench.live[1].blocks[3] != bench.live[2].blocks[3]
    bench.run()
    assert bench.said[1] == bench.said[2]


def test_the_least_recently_used_is_forgotten_first_and_its_end_before_its_beginning():
    bench = Bench(blocks=8, idle=400)
    for number in (1, 2):
        bench.add(number, text(3 * BLOCK, number), new=1)
        bench.run()
    bench.add(1, text(3 * BLOCK, 1), new=1)
    bench.run()
    # Two blocks are free, 3 are needed and one for what it says: the end of the second goes.
    bench.add(3, text(4 * BLOCK, 3), new=1)
    bench.run()
    assert bench.planner.evictions == 2
    assert len(bench.pool.match(text(3 * BLOCK, 1)).blocks) == 2
    assert bench.pool.match(text(3 * BLOCK, 1)).extra == BLOCK - 1
    assert bench.pool.match(text(3 * BLOCK, 2)) == Match(bench.pool.match(text(3 * BLOCK, 2)).blocks[:1])


def test_the_preempted_find_what_they_had():
    bench = Bench(blocks=9, idle=400, busy=400)
    bench.add(1, text(4 * BLOCK, 1), new=40)
    second = bench.add(2, text(3 * BLOCK + 20, 2), new=40)
    while not bench.planner.preemptions:
        bench.step()
    assert second.computed == 0
    lost = len(second.tokens)
    while second not in bench.planner.running:
        bench.step()
    start = next(start for number, start, _ in [*bench.step(), (2, 0, 0)] if number == 2)
    assert second.cached == 0
    assert 2 * BLOCK <= start <= lost + 1
    bench.run()


def test_tokens_are_compared_and_not_their_hashes():
    """In Python -1 and -2 have one hash, as do equal numbers of other kinds."""
    index = PrefixIndex(2)
    assert hash((-1, 5)) == hash((-2, 5))
    index.put(7, b"", (-1, 5))
    assert index.find([-2, 5, 0], 2, b"") == Match([])
    assert index.find([-1, 5, 0], 2, b"") == Match([7])


REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 6),  # when
        st.integers(0, 2),  # which text it begins with
        st.integers(0, 3 * BLOCK),  # how much of it
        st.integers(1, 40),  # how much of its own
        st.integers(1, 2 * BLOCK),  # answer
        st.integers(-1, 1),  # priority
        st.sampled_from([True, True, True, False]),  # reuse
        st.sampled_from([b"", b"", b"salt"]),
        st.sampled_from([None, None, 0, 3, 11]),  # leaves after so many steps
    ),
    min_size=1,
    max_size=10,
)


@settings(deadline=None, max_examples=150)
@given(REQUESTS, st.integers(7, 14), st.integers(1, 5), st.integers(1, 40), st.integers(1, 90), st.booleans())
def test_everybody_reads_its_own_past_whatever_happens(requests, blocks, most, busy, idle, cache):
    bench = Bench(blocks, cache=cache, max_sequences=most, busy=busy, idle=idle)
    arrivals = sorted(enumerate(requests), key=lambda item: item[1][0])
    leaving, expected, step = [], {}, 0
    while arrivals or bench.live:
        while arrivals and arrivals[0][1][0] <= step:
            number, (_, which, shared, own, new, priority, reuse, salt, leaves) = arrivals.pop(0)
            prompt = [*text(3 * BLOCK, which)[:shared], *text(own, 100 + number % 3)]
            bench.add(number, prompt, new, priority=priority, reuse=reuse, salt=salt)
            if leaves is None:
                expected[number] = prompt
                for _ in range(new):
                    expected[number] = [*expected[number], following(expected[number])]
            else:
                leaving.append((step + leaves, number))
        for when, number in leaving:
            if when == step and number in bench.live:
                bench.abort(number)
        running = bool(bench.live)
        assert bench.step() or not running, "nobody waits for nothing"
        step += 1
        assert step < 5000
    assert expected.items() <= bench.said.items()
    assert bench.planner.kv_used == 0
    assert bench.planner.kv_cached + len(bench.pool._free) * BLOCK == blocks * BLOCK

"""Passes are fair in tokens, full of like lengths, and lose nothing."""

import random

import pytest

from illm.backends.local.fair_passes import FairPasses


def drained(passes):
    while batch := passes.take():
        yield batch


@pytest.mark.parametrize("seed", range(20))
def test_whatever_arrives_when_every_row_is_taken_once(seed):
    rng = random.Random(seed)
    budget = rng.choice((1, 16, 100, 1000))
    passes = FairPasses(budget)
    lengths, taken, gone = {}, [], set()
    for key in range(12):
        lengths[key] = [rng.randint(1, 60) for _ in range(rng.randint(1, 30))]
        passes.add(key, lengths[key])
        taken += [passes.take() for _ in range(rng.randint(0, 4))]
        if rng.random() < 0.2:
            passes.remove(key)
            gone.add(key)
    taken += drained(passes)
    assert not passes
    assert passes.take() == []
    rows = [row for batch in taken for row in batch]
    assert len(rows) == len(set(rows))
    for key, rest in lengths.items():
        if key not in gone:
            assert {at for owner, at in rows if owner == key} == set(range(len(rest)))
    for batch in taken:
        assert len(batch) <= 1 or len(batch) * max(lengths[key][at] for key, at in batch) <= budget


def test_a_single_row_goes_before_the_rest_of_a_long_list():
    passes = FairPasses(100)
    passes.add(1, [10] * 1000)
    passes.take()
    passes.add(2, [12])
    assert (2, 0) in passes.take()


def test_a_long_list_goes_on_between_any_number_of_single_rows():
    passes = FairPasses(100)
    passes.add(0, [50] * 10)
    taken = 0
    for key in range(1, 31):
        passes.add(key, [100])
        taken += sum(owner == 0 for owner, _ in passes.take())
    assert taken == 10


def test_two_lists_share_by_tokens():
    passes = FairPasses(100)
    passes.add(1, [5] * 1000)
    passes.add(2, [50] * 100)
    tokens = {1: 0, 2: 0}
    for _ in range(40):
        for key, _ in passes.take():
            tokens[key] += 5 if key == 1 else 50
        assert abs(tokens[1] - tokens[2]) <= 200


def test_rows_of_several_calls_share_a_pass_where_their_lengths_are_alike():
    passes = FairPasses(1000)
    for key in range(8):
        passes.add(key, [10 + key % 3])
    assert len(passes.take()) == 8
    passes.add(1, [10])
    passes.add(2, [400])
    assert [len(batch) for batch in drained(passes)] == [1, 1]


def test_the_rows_of_many_clients_make_hardly_more_passes_than_those_of_one():
    rng = random.Random(0)
    lengths = [min(200, max(3, int(rng.lognormvariate(3.2, 0.8)))) for _ in range(256)]
    counts = []
    for clients in (1, 8):
        passes = FairPasses(2048)
        for key in range(clients):
            passes.add(key, lengths[key::clients])
        counts.append(len(list(drained(passes))))
    alone, shared = counts
    assert shared <= 1.1 * alone


def test_a_call_without_rows_waits_for_nothing():
    passes = FairPasses(10)
    passes.add(1, [])
    assert not passes

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.core.stops import StopCutter

ALPHABET = "abc"
TEXTS = st.text(ALPHABET, max_size=40)
STOPS = st.lists(st.text(ALPHABET, max_size=5), max_size=4)


def cut(stops, chunks):
    cutter = StopCutter(stops)
    shown = [cutter.feed(chunk) for chunk in chunks]
    return "".join(shown) + cutter.close(), cutter.hit


def plainly(stops, text):
    """What must come out, found by looking at every end in turn."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(STOPS, TEXTS, st.lists(st.integers(0, 40)))
def test_the_result_does_not_depend_on_the_chunks(stops, text, edges):
    marks = [0, *sorted(edge % (len(text) + 1) for edge in edges), len(text)]
    chunks = [text[left:right] for left, right in itertools.pairwise(marks)]
    assert cut(stops, chunks) == plainly(stops, text)


@given(STOPS, TEXTS)
def test_nothing_that_was_shown_is_ever_taken_back(stops, text):
    expected, hit = plainly(stops, text)
    cutter = StopCutter(stops)
    shown = ""
    for character in text:
        shown += cutter.feed(character)
        assert expected.startswith(shown)
    assert cutter.hit == hit


@pytest.mark.parametrize(
    ("chunk", "shown"),
    [("hello", "hello"), ("hello\n", "hello"), ("hello\nUs", "hello"), ("hello\nUx", "hello\nUx"), ("\n\nUser", "\n")],
)
def test_only_what_could_begin_a_stop_is_held_back(chunk, shown):
    cutter = StopCutter(["\nUser:"])
    assert cutter.feed(chunk) == shown


def test_held_text_comes_out_when_the_end_shows_it_was_no_stop():
    assert cut(["\nUser:"], ["hello\n", "Use"]) == ("hello\nUse", None)


def test_nothing_follows_a_stop():
    cutter = StopCutter(["."])
    assert cutter.feed("a.b") == "a"
    assert cutter.hit == "."
    assert cutter.feed("c") == ""
    assert cutter.close() == ""


def test_of_two_stops_the_one_that_ends_first_wins():
    assert cut(["abcd", "c"], ["xabcd"]) == ("xab", "c")
    assert cut(["bc", "abc"], ["xabc"]) == ("x", "abc")


def test_empty_stops_are_no_stops():
    assert cut(["", ""], ["abc"]) == ("abc", None)

"""Reasoning apart from what is said, whatever the cuts."""

import pytest

from illm.backends.local.answers.pieces import Said, Thought
from illm.backends.local.answers.thinking import TAGS, ThinkingReader, tags_in

from .reading import pieces_of

CASES = {
    "think, then say": (False, "<think>\nHm, 🦊.\n</think>\n\nHello", [Thought("Hm, 🦊."), Said("Hello")]),
    "open already": (True, "Hm.\n\nOh.\n</think>\n\n  Hello\n", [Thought("Hm.\n\nOh."), Said("  Hello\n")]),
    "open already, with breaks": (True, "\n\nHm.</think>Hello", [Thought("Hm."), Said("Hello")]),
    "never closed": (False, "<think>Hm </thin", [Thought("Hm </thin")]),
    "blanks before it": (False, "\n <think>a</think>b", [Thought("a"), Said("b")]),
    "no reasoning": (False, "  Hello <think>x</think>", [Said("  Hello <think>x</think>")]),
    "almost": (False, "<thinking> is hard", [Said("<thinking> is hard")]),
    "only half a tag": (False, "<thi", [Said("<thi")]),
    "closed at once": (True, "</think>Hello", [Said("Hello")]),
    "once is enough": (False, "<think>a</think>b<think>c</think>", [Thought("a"), Said("b<think>c</think>")]),
    "nothing": (True, "", []),
    "only breaks said": (True, "a</think>\n\n", [Thought("a")]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_read_does_not_depend_on_the_cuts(case):
    opened, text, expected = case
    for place in range(len(text) + 1):
        assert pieces_of(ThinkingReader(opened=opened), [text[:place], text[place:]]) == expected, f"cut at {place}"
    assert pieces_of(ThinkingReader(opened=opened), text) == expected


def test_reasoning_is_handed_on_as_it_comes():
    reader = ThinkingReader(opened=True)
    assert reader.feed("Hm, ") == [Thought("Hm, ")]
    assert reader.feed("so <") == [Thought("so ")]
    assert reader.feed("b>") == [Thought("<b>")]


def test_other_tags():
    tags = tags_in("... [THINK]{{ thought }}[/THINK] ...")
    assert tags == TAGS[1]
    assert pieces_of(ThinkingReader(tags, opened=False), ["[THINK]a[/THI", "NK]b"]) == [Thought("a"), Said("b")]
    assert tags_in("no such thing") is None


@pytest.mark.parametrize("opened", [False, True])
def test_it_is_open_between_the_tags_and_nowhere_else(opened):
    reader = ThinkingReader(opened=opened)
    states = [reader.open]
    tag = ("", "") if opened else ("<thi", "nk>")
    for text in (*tag, "\nHm", "</thi", "nk>", "\n", "Yes <think>"):
        reader.feed(text)
        states.append(reader.open)
    assert states == [opened, opened, True, True, True, False, False, False]

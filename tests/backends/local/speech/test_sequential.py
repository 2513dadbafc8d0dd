"""The walk through a recording, with listeners that hear what a test says."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

pytest.importorskip("numpy")

from hypothesis import given
from hypothesis import strategies as st

from illm.backends.local.speech.sequential import cut, walk
from illm.backends.local.speech.transcriber import Heard
from illm.core.events import Word

ZERO = 1000
"""The token for 0.00 s; text tokens are below."""


def at(seconds: float) -> int:
    return ZERO + round(seconds / 0.02)


def heard(*tokens: int, temperature=0.0, avg_logprob=-0.2, no_speech_prob=0.0) -> Heard:
    return Heard(list(tokens), temperature, avg_logprob, 1.0, no_speech_prob)


@dataclass
class Scripted:
    """Hears one `Heard` a window."""

    script: list[Heard]
    prompt: list[int] = field(default_factory=list)
    language: str = "en"
    time_zero: int = ZERO
    windows: list[int] = field(default_factory=list)
    before: list[list[int]] = field(default_factory=list)
    after: list[float] = field(default_factory=list)

    def hear(self, window, before):
        self.windows.append(window)
        self.before.append(list(before))
        return self.script.pop(0)

    def text(self, tokens):
        return "".join(f" w{token}" for token in tokens if token < ZERO)

    def time_words(self, pieces, seek, frames, after):
        self.after.append(after)
        for piece in pieces:
            piece.words = (Word(self.text(piece.tokens), piece.start, piece.end - 0.5),)


def sound(seconds: float):
    return SimpleNamespace(frames=round(seconds * 100), window=lambda start: start)


def test_windows_follow_the_tokens_for_time():
    listener = Scripted(
        [
            heard(at(0), 1, at(4), at(4), 2, at(20), at(20), 3),  # breaks off: heard again from 20 s
            heard(at(0), 3, at(10)),  # and nothing after it
            heard(at(1), 4, at(5)),
        ],
        prompt=[7],
    )
    steps = list(walk(listener, sound(60), words=False))
    assert listener.windows == [0, 2000, 5000]
    assert [step.position for step in steps] == [2000, 5000, 6000]
    assert [(s.start, s.end, s.text, s.seek) for step in steps for s in step.segments] == [
        (0, 4, " w1", 0),
        (4, 20, " w2", 0),
        (20, 30, " w3", 2000),
        (50, 55, " w4", 5000),
    ]
    assert listener.before[0] == [7]
    assert listener.before[1] == [7, at(0), 1, at(4), at(4), 2, at(20)]
    assert [step.tokens for step in steps] == [8, 3, 3]


def test_what_was_written_wildly_is_no_model_for_the_rest():
    listener = Scripted([heard(1, temperature=0.6), heard(2), heard(3)], prompt=[7])
    list(walk(listener, sound(90), words=False))
    assert listener.before == [[7], [], [2]]


def test_silence_is_passed_over_a_window_a_step():
    silence = heard(1, no_speech_prob=0.9, avg_logprob=-2.0)
    listener = Scripted([silence, silence, heard(2, no_speech_prob=0.9)])
    steps = list(walk(listener, sound(70), words=False))
    assert [step.position for step in steps] == [3000, 6000, 7000]
    assert [len(step.segments) for step in steps] == [0, 0, 1]
    assert listener.before[2] == []


def test_with_words_the_next_window_begins_behind_the_last_of_them():
    listener = Scripted([heard(at(0), 1, at(20), at(20), 2), heard(at(0), 3, at(20))])
    steps = list(walk(listener, sound(40), words=True))
    assert listener.windows == [0, 1950]
    assert steps[0].segments[0].words == (Word(" w1", 0, 19.5),)
    assert listener.after == [0.0, 19.5]


def test_a_model_that_does_not_go_on_is_not_asked_for_ever():
    listener = Scripted([heard(at(0), 1, at(0), at(0)), heard(2)])
    assert [step.position for step in walk(listener, sound(60), words=False)] == [3000, 6000]


def test_what_has_neither_text_nor_length_is_no_segment():
    listener = Scripted([heard(at(0), 1, at(0), at(0), at(8), at(8), 2, at(9))])
    [step] = walk(listener, sound(30), words=False)
    assert [(s.start, s.end) for s in step.segments] == [(8, 9)]


def test_a_window_is_heard_when_it_is_asked_for():
    listener = Scripted([heard(1), heard(2)])
    steps = walk(listener, sound(60), words=False)
    assert listener.windows == []
    next(steps)
    assert listener.windows == [0]


@given(st.lists(st.integers(990, 2500), max_size=30), st.integers(1, 3000))
def test_whatever_a_model_writes_is_cut_in_order_and_ends(tokens, frames):
    pieces, advance, _ = cut(tokens, ZERO, frames, 5.0)
    flat = [token for piece in pieces for token in piece.tokens]
    assert flat == tokens[: len(flat)]
    assert all(tokens[piece.at : piece.at + len(piece.tokens)] == piece.tokens for piece in pieces)
    assert all(piece.start >= 5.0 for piece in pieces)
    assert advance >= 0

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.core.detokenizer import Detokenizer

SPECIAL = 256


class Bytes:
    """A byte-level vocabulary: an id is a byte, 256 is a special token.  Notes the longest run it was asked for."""

    def __init__(self) -> None:
        self.longest = 0

    def __call__(self, ids: Sequence[int]) -> str:
        self.longest = max(self.longest, len(ids))
        return bytes(i for i in ids if i != SPECIAL).decode(errors="replace")


WORDS = ("▁The", "▁cat", "s", "▁sat", ".", "▁")


def words(ids: Sequence[int]) -> str:
    """A SentencePiece-like vocabulary: a leading space is dropped, so a word decoded alone loses its own."""
    return "".join(WORDS[i] for i in ids).replace("▁", " ").removeprefix(" ")


def pieces(ids: Sequence[int], cuts: Sequence[int]) -> list[Sequence[int]]:
    edges = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    return [ids[left:right] for left, right in itertools.pairwise(edges)]


@given(st.text(), st.text(), st.lists(st.integers(0, 1000)))
def test_text_is_the_same_however_its_bytes_arrive(prompt, text, cuts):
    ids = list(text.encode())
    detokenizer = Detokenizer(Bytes(), list(prompt.encode()))
    shown = [detokenizer.feed(piece) for piece in pieces(ids, cuts)]
    assert "".join(shown) + detokenizer.close() == text
    assert "".join(shown) == text or text.endswith("\ufffd")


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ufffd")))
def test_no_byte_by_byte_output_ever_shows_half_a_character(text):
    detokenizer = Detokenizer(Bytes())
    assert not any("\ufffd" in detokenizer.feed([byte]) for byte in text.encode())


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5), min_size=1))
def test_spaces_between_words_survive(prompt, ids):
    detokenizer = Detokenizer(words, prompt)
    shown = "".join(detokenizer.feed([i]) for i in ids) + detokenizer.close()
    assert words([0, *prompt]) + shown == words([0, *prompt, *ids]) or not prompt
    if not prompt:
        assert shown == words(ids)


def test_each_word_comes_as_soon_as_it_is_known():
    detokenizer = Detokenizer(words, [0])
    assert [detokenizer.feed([i]) for i in (1, 2, 3, 4)] == [" cat", "s", " sat", "."]


def test_what_generation_cut_off_shows_as_a_replacement_character():
    detokenizer = Detokenizer(Bytes())
    assert detokenizer.feed("né".encode()[:-1]) == ""
    assert detokenizer.close() == "n\ufffd"
    assert detokenizer.close() == ""


def test_a_character_that_the_prompt_began_comes_whole():
    smile = list("😀".encode())
    detokenizer = Detokenizer(Bytes(), [97, *smile[:2]])
    assert [detokenizer.feed([byte]) for byte in (*smile[2:], 98)] == ["", "😀", "b"]


def test_a_replacement_character_at_the_end_of_the_prompt_is_not_repeated():
    detokenizer = Detokenizer(Bytes(), list("a\ufffd".encode()))
    assert detokenizer.feed([98]) == "b"


@pytest.mark.parametrize("noise", [[0x80], [0xF0], [SPECIAL], [0xF0, 0x9F], [SPECIAL, 0x80]])
def test_endless_noise_neither_stops_the_text_nor_grows_the_window(noise):
    decode = Bytes()
    detokenizer = Detokenizer(decode, list(b"prompt"))
    shown = "".join(detokenizer.feed(noise) for _ in range(200))
    assert decode.longest < 60
    if noise != [SPECIAL]:
        assert len(shown) > 100
    assert (detokenizer.feed(list(b" end")) + detokenizer.close()).endswith(" end")


def test_noise_before_a_long_run_of_characters_costs_none_of_them():
    detokenizer = Detokenizer(Bytes())
    for _ in range(15):
        detokenizer.feed([0x80])
    shown = "".join(detokenizer.feed([byte]) for byte in ("😀" * 10).encode())
    assert shown + detokenizer.close() == "\ufffd" * 15 + "😀" * 10

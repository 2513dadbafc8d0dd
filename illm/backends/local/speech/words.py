"""Tokens into words, each with its time: pure functions over what a decoder's attention said about each token."""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from illm.core.events import Word

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages that write without spaces: every character is a word there."""

OPENING = "\"'“¿([{-"
CLOSING = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - punctuation of several scripts
"""Punctuation that belongs to the word behind it, and to the word in front of it."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A token and when it is spoken, in seconds."""

    token: int
    start: float
    end: float


def words_of(tokens: Sequence[Timed], decode: Callable[[list[int]], str], language: str) -> tuple[Word, ...]:
    """Return the words that tokens of text make.

    Args:
        tokens: in order; tokens for time left out.
        decode: tokens into text; a character whose bytes are incomplete becomes U+FFFD.
        language: ISO 639 code; decides whether spaces part words.
    """
    return tuple(_attached(_joined(_characters(tokens, decode), spaced=language not in _UNSPACED)))


def _characters(tokens: Sequence[Timed], decode: Callable[[list[int]], str]) -> list[Word]:
    """Join tokens until they make whole characters."""
    found: list[Word] = []
    pending: list[Timed] = []
    for timed in tokens:
        pending.append(timed)
        text = decode([one.token for one in pending])
        if _UNFINISHED not in text or timed is tokens[-1]:
            found.append(Word(text, pending[0].start, timed.end))
            pending = []
    return found


def _joined(parts: Sequence[Word], *, spaced: bool) -> list[Word]:
    if not spaced:
        return [part for part in parts if part.word]
    found: list[Word] = []
    for part in parts:
        begins = part.word.startswith(" ") or part.word.strip() in string.punctuation
        if begins or not found:
            found.append(part)
        else:
            found[-1] = replace(found[-1], word=found[-1].word + part.word, end=part.end)
    return found


def _attached(words: Sequence[Word]) -> list[Word]:
    """Give punctuation to its word: an opening bracket to the next, a full stop to the last."""
    found: list[Word] = []
    opening: Word | None = None
    for word in words:
        mark = word.word.strip()
        if opening is not None:
            word = Word(opening.word + word.word, opening.start, word.end)
            opening = None
        elif mark in CLOSING and found and not word.word.startswith(" "):
            found[-1] = replace(found[-1], word=found[-1].word + word.word)
            continue
        elif mark in OPENING and word.word.startswith(" "):
            opening = word
            continue
        found.append(word)
    return [*found, *([opening] if opening is not None else [])]

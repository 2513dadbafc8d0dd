"""Tokens into words with their times."""

import pytest

from illm.backends.local.speech.words import Timed, words_of
from illm.core.events import Word


def spoken(parts: list[str | bytes], language: str = "en") -> list[tuple[str, float, float]]:
    """Token n is `parts[n]`, spoken from n to n + 1."""
    raw = [part.encode() if isinstance(part, str) else part for part in parts]

    def decode(tokens: list[int]) -> str:
        return b"".join(raw[token] for token in tokens).decode(errors="replace")

    words = words_of([Timed(n, n, n + 1) for n in range(len(parts))], decode, language)
    assert all(isinstance(word, Word) for word in words)
    return [(word.word, word.start, word.end) for word in words]


@pytest.mark.parametrize(
    ("parts", "language", "expected"),
    [
        ([], "en", []),
        ([" Hel", "lo", " you"], "en", [(" Hello", 0, 2), (" you", 2, 3)]),
        ([" dog", ".", " Please"], "en", [(" dog.", 0, 1), (" Please", 2, 3)]),
        ([" (", "so", ")", "!"], "en", [(" (so)!", 0, 2)]),
        (["日", "本"], "ja", [("日", 0, 1), ("本", 1, 2)]),
        ([" caf", b"\xc3", b"\xa9", " au"], "fr", [(" café", 0, 3), (" au", 3, 4)]),
        ([" odd", b"\xe6\x97"], "en", [(" odd\N{REPLACEMENT CHARACTER}", 0, 2)]),
    ],
)
def test_words(parts, language, expected):
    assert spoken(parts, language) == expected

"""Feed a parser text in pieces, and put together what it makes of them."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from illm.backends.local.answers import FORMATS
from illm.backends.local.answers.pieces import Arguments, Called, Ended, Piece, Said, joined

NAMES = frozenset({"get", "put", "get_weather", "f"})


def pieces_of(parser, parts: Iterable[str]) -> list[Piece]:
    out: list[Piece] = []
    for part in parts:
        out += parser.feed(part)
    return joined([*out, *parser.close()])


def read(name: str, *parts: str, names=NAMES, **options) -> list[Piece]:
    return pieces_of(FORMATS[name].reader(names, **options), parts)


def call(name: str, arguments: str) -> list[Piece]:
    return [Called(name), Arguments(arguments), Ended()]


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(ends)]


def said(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Said))

"""What a parser makes of an answer's text."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """Text that is the answer's content."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text that the model wrote for itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A tool call begins: a function that the client offered."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A part of the arguments of the call that is open, as JSON text."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The call that was open has ended."""


Piece = Said | Thought | Called | Arguments | Ended


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Return the pieces with neighbours of one kind put together, and without empty ones."""
    out: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Said | Thought | Arguments):
            if not piece.text:
                continue
            last = out[-1] if out else None
            if isinstance(last, Said | Thought | Arguments) and type(last) is type(piece):
                out[-1] = type(piece)(last.text + piece.text)
                continue
        out.append(piece)
    return out

"""Reasoning: `<think>...</think>` at the beginning of an answer, or already open where the prompt ends in `<think>`.

Only there, and once: a model that writes about the tag later on means the text.  Line breaks next to the tags belong to
them, as chat templates put them there.
"""

from typing import NamedTuple

from illm.backends.local.answers.pieces import Piece, Said, Thought, joined
from illm.core.stops import overlap

_BREAKS = "\r\n"


class Tags(NamedTuple):
    """What stands around reasoning."""

    opening: str
    closing: str


TAGS = (Tags("<think>", "</think>"), Tags("[THINK]", "[/THINK]"))
"""The tags that models use, the usual ones first."""


def tags_in(template: str) -> Tags | None:
    """Return the tags that a chat template speaks of, or None where it speaks of none."""
    return next((tags for tags in TAGS if tags.closing in template), None)


class ThinkingReader:
    """One answer's text, and what of it is reasoning.

    Args:
        tags: the model's.
        opened: the prompt ends inside the reasoning.
    """

    def __init__(self, tags: Tags = TAGS[0], *, opened: bool) -> None:
        self._tags = tags
        self._buffer = ""
        self._place = "beginning" if opened else "before"

    @property
    def open(self) -> bool:
        """Whether what comes next is reasoning, as far as is known."""
        return self._place in ("beginning", "inside")

    def feed(self, text: str) -> list[Piece]:
        """Return what this text makes clear."""
        self._buffer += text
        return joined(self._read(over=False))

    def close(self) -> list[Piece]:
        """Return what was held back: the text has ended."""
        return joined(self._read(over=True))

    def _read(self, *, over: bool) -> list[Piece]:
        out: list[Piece] = []
        if self._place == "before":
            self._look_for_opening(over=over)
        if self._place == "beginning":
            self._skip_breaks("inside", over=over)
        if self._place == "inside":
            end = self._buffer.find(self._tags.closing)
            if end >= 0:
                out.append(Thought(self._buffer[:end].rstrip(_BREAKS)))
                self._buffer, self._place = self._buffer[end + len(self._tags.closing) :], "behind"
            else:
                hold = 0 if over else overlap(self._buffer, self._tags.closing)
                shown = self._buffer[: len(self._buffer) - hold]
                shown = shown if over else shown.rstrip(_BREAKS)
                out.append(Thought(shown))
                self._buffer = self._buffer[len(shown) :]
        if self._place == "behind":
            self._skip_breaks("content", over=over)
        if self._place == "content":
            out.append(Said(self._buffer))
            self._buffer = ""
        return out

    def _look_for_opening(self, *, over: bool) -> None:
        text = self._buffer.lstrip()
        if text.startswith(self._tags.opening):
            self._buffer, self._place = text[len(self._tags.opening) :], "beginning"
        elif over or not self._tags.opening.startswith(text):
            self._place = "content"

    def _skip_breaks(self, place: str, *, over: bool) -> None:
        self._buffer = self._buffer.lstrip(_BREAKS)
        if self._buffer or over:
            self._place = place

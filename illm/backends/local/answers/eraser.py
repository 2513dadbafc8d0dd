"""Take a model's control tokens out of text that a client will see."""

from collections.abc import Sequence

from illm.core.stops import overlap


class Eraser:
    """Feed text, get it without any of the marks.

    Args:
        marks: what to take out.
    """

    __slots__ = ("_held", "_marks")

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = tuple(marks)
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what may be shown now."""
        text = self._held + text
        for mark in self._marks:
            text = text.replace(mark, "")
        hold = max((overlap(text, mark) for mark in self._marks), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def close(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held

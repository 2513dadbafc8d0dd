"""Cut text at stop strings without ever letting a part of one out.

The match that *ends first* wins, which makes the result independent of how the text was chunked.  Text that could
still be the beginning of a stop string is held back until it is decided.
"""

from collections.abc import Iterable


class StopCutter:
    """Feed text, get the text that is safe to show.  `hit` is the stop string that was met, if any.

    Args:
        stops: the stop strings; empty ones are ignored.
    """

    __slots__ = ("_held", "_stops", "hit")

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """Return what may be shown now; nothing once a stop string has been met."""
        if self.hit is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        # Searching from the start is right: `_held` is shorter than the longest stop string.
        hits = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if hits:
            _, at, self.hit = min(hits)
            self._held = ""
            return text[:at]
        hold = max(overlap(text, stop) for stop in self._stops)
        cut = len(text) - hold
        self._held = text[cut:]
        return text[:cut]

    def close(self) -> str:
        """Return what was held back: the text ended, so it was no stop string after all."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of `stop` that `text` ends with."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0

"""Which streams are due at which tick.  No I/O, no clock."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Wheel(Generic[T]):
    """What waits for a tick, found without looking at what does not.

    One timer serves any number of streams, and each keeps its own phase: they do not all speak at the same instant
    unless they are told to.
    """

    def __init__(self) -> None:
        self._slots: dict[int, list[T]] = {}
        self._now = 0

    def __bool__(self) -> bool:
        return bool(self._slots)

    def add(self, tick: int, item: T) -> None:
        """Let `item` be due at `tick`; one that is past is due at the next call."""
        self._slots.setdefault(max(tick, self._now + 1), []).append(item)

    def due(self, tick: int) -> list[T]:
        """Return all that is due up to and including `tick`, earliest first; ticks only go up."""
        if not self._slots:
            self._now = max(self._now, tick)
            return []
        late = tick - self._now
        passed = range(self._now + 1, tick + 1) if late < len(self._slots) else sorted(self._slots)
        self._now = max(self._now, tick)
        return [item for slot in passed if slot <= tick for item in self._slots.pop(slot, ())]

"""Who is next, and with whom: rows of many calls, put together into passes of a model.

Fair in tokens, not in calls: each call has a clock that its rows move forward, and the call whose clock is furthest
behind leads the next pass.  A new one starts at the common clock, which goes as fast as that of a call with its fair
share would.  So a single short row goes before the rest of a list of thousands, and the list goes on between any number
of single rows.

Quick: a pass takes rows of like length, whosever they are, since what is padded is computed for nothing.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Row = tuple[int, int]
"""A call's key, and the row's place in that call."""

_CHOICE = 4
"""Passes' worth of rows that one is chosen from: the calls of many clients have to be looked at together, or the few
rows of like length that each has make small passes with much padding."""


@dataclass(slots=True)
class _Waiting:
    """One call's rows that no pass has taken, the shortest first, each with its length; `clock` is in tokens."""

    rows: deque[tuple[int, int]]
    clock: float
    order: int


class FairPasses:
    """The rows that wait.

    Args:
        budget: tokens of a pass, padding included; a single row may be longer.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._calls: dict[int, _Waiting] = {}
        self._now = 0.0
        self._order = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, key: int, lengths: Sequence[int]) -> None:
        """Have the rows of a call wait, of so many tokens each."""
        if lengths:
            rows = deque(sorted(((length, at) for at, length in enumerate(lengths))))
            self._calls[key] = _Waiting(rows, self._now, self._order)
            self._order += 1

    def remove(self, key: int) -> None:
        """Forget a call's rows, if any wait."""
        self._calls.pop(key, None)

    def take(self) -> list[Row]:
        """Return the next pass: rows of like length, the leader's shortest among them; empty where nothing waits."""
        if not self._calls:
            return []
        line = sorted(self._calls, key=lambda key: (self._calls[key].clock, -self._calls[key].order))
        candidates = self._candidates(line)
        first = (line[0], candidates[line[0]][0][1])
        lengths = {(key, at): length for key, rows in candidates.items() for length, at in rows}
        every = list(lengths)
        batches = ([every[at] for at in batch] for batch in plan([lengths[row] for row in every], self.budget))
        taken = next(batch for batch in batches if first in batch)
        self._withdraw(candidates, lengths, set(taken))
        return taken

    def _candidates(self, line: Sequence[int]) -> Mapping[int, list[tuple[int, int]]]:
        """Take rows off the front of the line's calls, until they would fill a few passes; at least one."""
        found: dict[int, list[tuple[int, int]]] = {}
        room = _CHOICE * self.budget
        for key in line:
            rows = self._calls[key].rows
            found[key] = []
            while rows and (room >= rows[0][0] or not found[line[0]]):
                room -= rows[0][0]
                found[key].append(rows.popleft())
            if room <= 0:
                break
        return found

    def _withdraw(
        self, candidates: Mapping[int, list[tuple[int, int]]], lengths: Mapping[Row, int], taken: set[Row]
    ) -> None:
        self._now += sum(lengths[row] for row in taken) / len(self._calls)
        for key, rows in candidates.items():
            call = self._calls[key]
            call.clock += sum(length for length, at in rows if (key, at) in taken)
            call.rows.extendleft(reversed([(length, at) for length, at in rows if (key, at) not in taken]))
            if not call.rows:
                del self._calls[key]


_PASS_COST = 64
"""What a pass of its own costs, in tokens: so much padding is worth sparing one."""


def plan(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Sort rows into passes: indices of like length together, padded size within the budget, at least one a pass."""
    batch: list[int] = []
    padding = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch:
            padding += (lengths[index] - lengths[batch[-1]]) * len(batch)
            if padding > _PASS_COST or (len(batch) + 1) * lengths[index] > budget:
                yield batch
                batch, padding = [], 0
        batch.append(index)
    if batch:
        yield batch

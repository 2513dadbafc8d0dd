"""Which tokens go through the model next.

Every step takes one token of each sequence that is decoding, and fills up with pieces ("chunks") of prompts: small
ones while others decode, since a chunk delays everybody's next token, and large ones when nobody waits.  Admission is
first come, first served, and asks only for the memory that the tokens known so far need.  When memory runs out the
youngest sequence gives up its own and is computed again later; the oldest always gets on, so the whole does.
"""

from collections import deque
from typing import NamedTuple

from illm.backends.local.engine.blocks import BLOCK, BlockPool, blocks_for
from illm.backends.local.engine.sequence import LiveSequence


class Piece(NamedTuple):
    """Tokens `start` to `start + size` of one sequence; `samples` if the next token follows from them."""

    sequence: LiveSequence
    start: int
    size: int
    samples: bool


class Scheduler:
    """Queues, and the decision for each step.

    Args:
        pool: the KV memory.
        max_sequences: how many may hold KV memory at once.
        busy_chunk: prompt tokens a step while others decode.
        idle_chunk: prompt tokens a step while nobody does.
    """

    def __init__(self, pool: BlockPool, *, max_sequences: int, busy_chunk: int, idle_chunk: int) -> None:
        if min(max_sequences, busy_chunk, idle_chunk) < 1:
            raise ValueError("max_sequences and the chunk sizes must be at least 1")
        self._pool = pool
        self._max_sequences = max_sequences
        self._busy_chunk = busy_chunk
        self._idle_chunk = idle_chunk
        # Both in order of arrival, and everything that runs arrived before everything that waits.
        self.waiting: deque[LiveSequence] = deque()
        self.running: list[LiveSequence] = []
        self.preemptions = 0

    @property
    def kv_used(self) -> int:
        """Tokens' worth of KV memory in use."""
        return self._pool.used * BLOCK

    def add(self, sequence: LiveSequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: LiveSequence) -> None:
        """Forget a sequence, wherever it is, and free its memory."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._pool.release(sequence.blocks)

    def plan(self) -> list[Piece]:
        """Return the pieces of the next step, memory already theirs; single tokens come first."""
        pieces = self._decoding()
        budget = self._busy_chunk if pieces else self._idle_chunk
        for sequence in [s for s in self.running if s.pending > 1]:
            if budget <= 0:
                break
            pieces.append(_piece(sequence, budget))
            budget -= pieces[-1].size
        while budget > 0 and (admitted := self._admit()) is not None:
            pieces.append(_piece(admitted, budget))
            budget -= pieces[-1].size
        pieces.sort(key=lambda piece: piece.size > 1)
        return pieces

    def _decoding(self) -> list[Piece]:
        pieces = []
        for sequence in [s for s in self.running if s.pending == 1]:
            # Going from old to young and taking from the youngest: whoever has its piece keeps it.
            while sequence in self.running:
                if self._pool.grow(sequence.blocks, len(sequence.tokens)):
                    pieces.append(_piece(sequence, 1))
                    break
                self._preempt(self.running[-1])
        return pieces

    def _preempt(self, sequence: LiveSequence) -> None:
        self.running.remove(sequence)
        self._pool.release(sequence.blocks)
        sequence.computed = 0
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _admit(self) -> LiveSequence | None:
        if not self.waiting or len(self.running) >= self._max_sequences:
            return None
        sequence = self.waiting[0]
        # One block for each that runs, or the newcomer would be thrown out again a few steps later.
        if blocks_for(len(sequence.tokens)) + len(self.running) > self._pool.free:
            return None
        self.waiting.popleft()
        self._pool.grow(sequence.blocks, len(sequence.tokens))
        self.running.append(sequence)
        return sequence


def _piece(sequence: LiveSequence, budget: int) -> Piece:
    size = min(sequence.pending, budget, sequence.largest_piece)
    return Piece(sequence, sequence.computed, size, samples=size == sequence.pending)

"""Which tokens go through the model next.

Every step takes one token of each sequence that is decoding, and fills up with pieces ("chunks") of prompts: small
ones while others decode, since a chunk delays everybody's next token, and large ones when nobody waits.  Sequences
rank by priority, then by arrival.  The first of those with a prompt to compute gets half of a step's chunk, so that it
comes to its end; the other half goes to whoever has least left, so that a short prompt need not wait for a long one.

Admission goes by rank and asks only for the memory that the tokens known so far need.  A sequence begins after what is
known of its prompt; where another is just computing what they have in common, it waits for that.  When memory runs out
the last in rank gives up its own and is computed again later, as far as it has been forgotten by then; the first always
gets on, so the whole does.
"""

from bisect import insort
from collections.abc import Sequence
from typing import NamedTuple

from illm.backends.local.engine.blocks import BLOCK, BlockPool, blocks_for
from illm.backends.local.engine.prefix import Match, Parent, common
from illm.backends.local.engine.sequence import LiveSequence

_WORTH_WAITING = 16  # tokens; to wait for fewer takes longer than to compute them


class Piece(NamedTuple):
    """Tokens `start` to `start + size` of one sequence; `samples` if the next token follows from them."""

    sequence: LiveSequence
    start: int
    size: int
    samples: bool


class Copy(NamedTuple):
    """The first `tokens` keys and values of block `source`, to be copied into block `target`."""

    source: int
    target: int
    tokens: int


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
        self._arrivals = 0
        # Both in order of rank.
        self.waiting: list[LiveSequence] = []
        self.running: list[LiveSequence] = []
        self._copies: list[Copy] = []
        self.preemptions = self.prefix_hits = self.prefix_tokens = 0

    @property
    def kv_used(self) -> int:
        """Tokens' worth of KV memory that sequences hold."""
        return self._pool.used * BLOCK

    @property
    def kv_cached(self) -> int:
        """Tokens' worth of KV memory that nobody holds, kept for whoever asks the same again."""
        return self._pool.cached * BLOCK

    @property
    def evictions(self) -> int:
        """How many blocks of those have been forgotten."""
        return self._pool.evictions

    def add(self, sequence: LiveSequence) -> None:
        """Queue a sequence."""
        sequence.rank = (sequence.request.priority, self._arrivals)
        self._arrivals += 1
        insort(self.waiting, sequence, key=_rank)

    def remove(self, sequence: LiveSequence) -> None:
        """Forget a sequence, wherever it is, and free its memory."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._release(sequence)

    def plan(self) -> tuple[list[Piece], list[Copy]]:
        """Return the pieces of the next step, memory already theirs, and what has to be copied first, in this order.

        Single tokens come first.
        """
        self._admit()
        pieces = self._decoding()
        pieces += self._prefilling(self._busy_chunk if pieces else self._idle_chunk)
        pieces.sort(key=lambda piece: piece.size > 1)
        copies, self._copies = self._copies, []
        return pieces, copies

    def settle(self, pieces: Sequence[Piece]) -> None:
        """Let others find what a forward has computed; nothing has been sampled from it yet."""
        for sequence, start, size, samples in pieces:
            end = start + size
            for number in range(start // BLOCK, end // BLOCK):
                held = sequence.tokens[number * BLOCK : (number + 1) * BLOCK]
                self._pool.publish(sequence.blocks, number, held, sequence.salt)
            if samples and not sequence.generated:
                self._publish_rest(sequence)

    def _decoding(self) -> list[Piece]:
        pieces = []
        for sequence in [s for s in self.running if s.pending == 1]:
            # Going from first to last and taking from the last: whoever has its piece keeps it.
            while sequence in self.running:
                if self._pool.grow(sequence.blocks, len(sequence.tokens)):
                    pieces.append(_piece(sequence, 1))
                    break
                self._preempt(self.running[-1])
        return pieces

    def _prefilling(self, budget: int) -> list[Piece]:
        pieces: list[Piece] = []
        prompts = [s for s in self.running if s.pending > 1]
        if not prompts:
            return pieces
        first = prompts[0]
        kept = min(first.pending, max(1, budget // 2))
        for sequence in sorted(prompts, key=lambda s: (s.request.priority, s.pending, s.rank)):
            size = min(sequence.pending, sequence.largest_piece, budget if sequence is first else budget - kept)
            if sequence is first:
                kept = 0
            if size > 0:
                pieces.append(_piece(sequence, size))
                budget -= size
        return pieces

    def _preempt(self, sequence: LiveSequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.computed = 0
        insort(self.waiting, sequence, key=_rank)
        self.preemptions += 1

    def _admit(self) -> None:
        coming = [_coming(sequence) for sequence in self.running if sequence.pending > 1]
        at = 0
        while at < len(self.waiting) and len(self.running) < self._max_sequences:
            sequence = self.waiting[at]
            # What is not computed has no logits to score.
            reuse = sequence.request.reuse and not sequence.unscored and self._pool.caches
            match = self._pool.match(sequence.tokens, sequence.salt) if reuse else Match([])
            if reuse and _worth_waiting(sequence, match, coming):
                at += 1
                continue
            # One block for each that runs, or the newcomer would be thrown out again a few steps later.
            missing = blocks_for(len(sequence.tokens)) - len(match.blocks)
            if missing + len(self.running) > self._pool.room(match):
                return
            del self.waiting[at]
            self._begin(sequence, match)
            if sequence.pending > 1:
                coming.append(_coming(sequence))

    def _begin(self, sequence: LiveSequence, match: Match) -> None:
        self._pool.share(sequence.blocks, match)
        self._pool.grow(sequence.blocks, len(sequence.tokens))
        sequence.computed = len(match.blocks) * BLOCK + match.extra
        if match.extra:
            # The source may just have been forgotten, and be somebody's already: but nobody has written to it yet.
            self._copies.append(Copy(match.source, sequence.blocks[len(match.blocks)], match.extra))
        if sequence.cached is None:
            sequence.cached = min(sequence.computed, len(sequence.request.prompt))
            self.prefix_tokens += sequence.cached
            self.prefix_hits += sequence.cached > 0
        insort(self.running, sequence, key=_rank)

    def _release(self, sequence: LiveSequence) -> None:
        self._publish_rest(sequence)
        self._pool.release(sequence.blocks)

    def _publish_rest(self, sequence: LiveSequence) -> None:
        number = sequence.computed // BLOCK
        held = sequence.tokens[number * BLOCK : sequence.computed]
        if held:
            self._pool.publish(sequence.blocks, number, held, sequence.salt)


def _rank(sequence: LiveSequence) -> tuple[int, int]:
    return sequence.rank


def _piece(sequence: LiveSequence, size: int) -> Piece:
    return Piece(sequence, sequence.computed, size, samples=size == sequence.pending)


class _Coming(NamedTuple):
    """A block that is being computed: what is before it, what it will hold, and how much that matters."""

    parent: Parent
    tokens: list[int]
    priority: int


def _coming(sequence: LiveSequence) -> _Coming:
    number = sequence.computed // BLOCK
    held = sequence.tokens[number * BLOCK : (number + 1) * BLOCK]
    return _Coming(_parent(sequence, sequence.blocks, number), held, sequence.request.priority)


def _parent(sequence: LiveSequence, blocks: Sequence[int], number: int) -> Parent:
    return blocks[number - 1] if number else sequence.salt


def _worth_waiting(sequence: LiveSequence, match: Match, coming: Sequence[_Coming]) -> bool:
    parent, at = _parent(sequence, match.blocks, len(match.blocks)), len(match.blocks) * BLOCK
    wanted = sequence.tokens[at : min(at + BLOCK, len(sequence.tokens) - 1)]
    return any(
        other.parent == parent
        # Whoever matters more must not depend on how soon the other gets on.
        and other.priority <= sequence.request.priority
        and common(wanted, other.tokens) >= match.extra + _WORTH_WAITING
        for other in coming
    )

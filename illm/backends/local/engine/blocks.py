"""Who holds which piece of the KV memory, and what stays in it for whoever asks the same again.

Memory is handed out in blocks of `BLOCK` tokens, so that nothing has to be reserved for text that may never be
written, and nothing is ever moved.  Attention can read a run of neighbouring blocks without copying it, which is why a
sequence that grows is given the block after its last one whenever that is free.

Several sequences may hold a full block, as nobody writes to it any more.  One that nobody holds but whose tokens are
known (`prefix`) stays until its memory is needed, the least recently used first.  Whoever holds a block holds all
before it too, and lets go of the last one first; so a block never goes before those that follow it.
"""

from collections.abc import Sequence

from illm.backends.local.engine.prefix import Match, PrefixIndex

BLOCK = 32


def blocks_for(tokens: int) -> int:
    """Return how many blocks hold this many tokens."""
    return -(-tokens // BLOCK)


class BlockPool:
    """All blocks, free or held.

    Args:
        total: how many blocks there are; they are numbered from 0.
        cache: keep what was computed for others; else a block that nobody holds is simply free.
    """

    __slots__ = ("_free", "_holders", "_idle", "_index", "evictions", "total")

    def __init__(self, total: int, *, cache: bool = True) -> None:
        self.total = total
        self.evictions = 0
        self._index = PrefixIndex(BLOCK) if cache else None
        self._holders = [0] * total
        # A dict is a set that remembers order and pops from the end: the lowest number first.
        self._free = dict.fromkeys(range(total - 1, -1, -1))
        self._idle: dict[int, None] = {}  # known and held by nobody, the least recently used first

    @property
    def caches(self) -> bool:
        """Whether anything is kept."""
        return self._index is not None

    @property
    def free(self) -> int:
        """How many blocks can be had, those that would have to be forgotten included."""
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        """How many blocks somebody holds."""
        return self.total - self.free

    @property
    def cached(self) -> int:
        """How many blocks nobody holds that may yet be asked for."""
        return len(self._idle)

    def match(self, tokens: Sequence[int], salt: bytes = b"") -> Match:
        """Return what is known of a text's beginning: at most all but its last token, whose logits are wanted."""
        return Match([]) if self._index is None else self._index.find(tokens, len(tokens) - 1, salt)

    def room(self, match: Match) -> int:
        """Return how many blocks could be had by somebody who held `match`."""
        return self.free - sum(not self._holders[block] for block in match.blocks)

    def share(self, blocks: list[int], match: Match) -> None:
        """Begin `blocks`, so far empty, with those of `match`."""
        for block in match.blocks:
            self._hold(block)
        blocks += match.blocks

    def grow(self, blocks: list[int], tokens: int) -> bool:
        """Extend `blocks` in place until it holds `tokens` tokens; False, and nothing taken, if there are too few."""
        missing = blocks_for(tokens) - len(blocks)
        if missing > self.free:
            return False
        while len(self._free) < missing:
            self._evict()
        for _ in range(missing):
            block = blocks[-1] + 1 if blocks else -1
            if block in self._free:
                del self._free[block]
            else:
                block, _ = self._free.popitem()
            self._holders[block] = 1
            blocks.append(block)
        return True

    def publish(self, blocks: list[int], number: int, tokens: Sequence[int], salt: bytes = b"") -> None:
        """Let others find what has been computed.

        Args:
            blocks: a sequence's; all before `number` are published.  Where another block has the same past and the
                same tokens, it takes the place of the sequence's own.
            number: which of them.
            tokens: what it holds; fewer than `BLOCK` if the sequence has come no further yet.
            salt: the sequence's.
        """
        if self._index is None:
            return
        block, parent = blocks[number], blocks[number - 1] if number else salt
        held = tuple(tokens)
        same = self._index.child(parent, held)
        if same is None:
            self._index.put(block, parent, held)
        elif same != block and len(held) == BLOCK:
            self._hold(same)
            blocks[number] = same
            self._index.forget(block)
            self._let_go(block)

    def release(self, blocks: list[int]) -> None:
        """Take all of `blocks` back and empty the list."""
        for block in reversed(blocks):
            self._let_go(block)
        blocks.clear()

    def _hold(self, block: int) -> None:
        self._idle.pop(block, None)
        self._holders[block] += 1

    def _let_go(self, block: int) -> None:
        self._holders[block] -= 1
        if not self._holders[block]:
            known = self._index is not None and block in self._index
            (self._idle if known else self._free)[block] = None

    def _evict(self) -> None:
        block = next(iter(self._idle))
        del self._idle[block]
        if self._index is not None:
            self._index.forget(block)
        self._free[block] = None
        self.evictions += 1

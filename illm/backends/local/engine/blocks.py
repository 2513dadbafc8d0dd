"""Who holds which piece of the KV memory.

Memory is handed out in blocks of `BLOCK` tokens, so that nothing has to be reserved for text that may never be
written, and nothing is ever moved.  Attention can read a run of neighbouring blocks without copying it, which is why a
sequence that grows is given the block after its last one whenever that is free.
"""

BLOCK = 32


def blocks_for(tokens: int) -> int:
    """Return how many blocks hold this many tokens."""
    return -(-tokens // BLOCK)


class BlockPool:
    """The free blocks.

    Args:
        total: how many blocks there are; they are numbered from 0.
    """

    __slots__ = ("_free", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        # A dict is a set that remembers order and pops from the end: the lowest number first.
        self._free = dict.fromkeys(range(total - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.total - len(self._free)

    def grow(self, blocks: list[int], tokens: int) -> bool:
        """Extend `blocks` in place until it holds `tokens` tokens; False, and nothing taken, if there are too few."""
        missing = blocks_for(tokens) - len(blocks)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            block = blocks[-1] + 1 if blocks else -1
            if block in self._free:
                del self._free[block]
            else:
                block, _ = self._free.popitem()
            blocks.append(block)
        return True

    def release(self, blocks: list[int]) -> None:
        """Take all of `blocks` back and empty the list."""
        for block in reversed(blocks):
            self._free[block] = None
        blocks.clear()

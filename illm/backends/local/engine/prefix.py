"""Which block holds which tokens: a tree over token ids, one block a node.

A block's keys and values depend on its own tokens and on all before them, so it is found by its tokens below the block
before it.  The tokens themselves are compared, not a digest of them: nobody is ever given another's past.  A block
that is not full is a leaf; whoever goes on from it copies what they have in common, and leaves it alone.

A block's number stands for the block as somebody's parent.  That is safe as long as no block is forgotten before those
below it, which is how `BlockPool` evicts.
"""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

Parent: TypeAlias = int | bytes
"""A block, or the salt at the root of a tree: what is salted differently is never shared."""

LEAST = 8
"""Fewer tokens of a block are computed again: the first words of a template are common to all, and no gain to copy."""

_LOOK = 16  # leaves to compare, newest first: below a popular prefix there may be thousands


class Match(NamedTuple):
    """What is known of a text's beginning: whole `blocks`, then the first `extra` tokens of the block `source`."""

    blocks: list[int]
    source: int = -1
    extra: int = 0


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many tokens two texts begin with in common."""
    at = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        at += 1
    return at


class PrefixIndex:
    """The tree.

    Args:
        size: tokens in a full block.
    """

    __slots__ = ("_children", "_places", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._children: dict[Parent, dict[tuple[int, ...], int]] = {}
        self._places: dict[int, tuple[Parent, tuple[int, ...]]] = {}

    def __contains__(self, block: int) -> bool:
        return block in self._places

    def find(self, tokens: Sequence[int], limit: int, salt: bytes) -> Match:
        """Return the longest known beginning of `tokens`, of at most `limit` of them."""
        blocks: list[int] = []
        parent: Parent = salt
        for at in range(0, limit, self._size):
            children = self._children.get(parent)
            if children is None:
                break
            wanted = tuple(tokens[at : min(at + self._size, limit)])
            block = children.get(wanted)
            if block is None or len(wanted) < self._size:
                newest = islice(reversed(children.items()), _LOOK)
                extra, source = max((common(wanted, known), block) for known, block in newest)
                return Match(blocks, source, extra) if extra >= LEAST else Match(blocks)
            blocks.append(block)
            parent = block
        return Match(blocks)

    def child(self, parent: Parent, tokens: tuple[int, ...]) -> int | None:
        """Return the block that holds exactly these tokens below `parent`."""
        return self._children.get(parent, {}).get(tokens)

    def put(self, block: int, parent: Parent, tokens: tuple[int, ...]) -> None:
        """Note what a block holds, instead of what was noted of it before."""
        self.forget(block)
        self._children.setdefault(parent, {})[tokens] = block
        self._places[block] = (parent, tokens)

    def forget(self, block: int) -> None:
        """Take a block out, if it is in; the caller has taken out what is below it."""
        place = self._places.pop(block, None)
        if place is not None:
            parent, tokens = place
            siblings = self._children[parent]
            del siblings[tokens]
            if not siblings:
                del self._children[parent]

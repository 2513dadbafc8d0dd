"""The memory of keys and values, and how much of it there is.

One pair of tensors a layer, `(slots, heads, dim)`, taken once.  A slot is a token's place; `blocks` says whose it is.
Nothing reads a slot that its present owner has not written, so nothing has to be cleared, and on a CPU pages that
nobody ever touches are never given to the process at all.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from illm.backends.local.engine.blocks import BLOCK

_SHARE = 0.25  # of what is free: other models, the allocator and the operating system live here too
_MODEST = 2 << 30  # bytes; more than this only where one full context needs it


class LayerShape(NamedTuple):
    """What one attention layer keeps for a token: `heads` keys of `key_dim` and values of `value_dim` numbers.

    `window` is how many tokens, its own included, a token sees; None is all.
    """

    heads: int
    key_dim: int
    value_dim: int
    window: int | None
    dtype: torch.dtype


class KVSlab:
    """Keys and values of every layer.

    Args:
        shapes: one for each layer.
        tokens: how many tokens to hold; rounded down to whole blocks, at least one.
        device: where.
    """

    def __init__(self, shapes: list[LayerShape], tokens: int, device: torch.device) -> None:
        self.shapes = shapes
        self.blocks = max(1, tokens // BLOCK)
        self.device = device
        slots = self.blocks * BLOCK
        self.keys = [torch.empty(slots, s.heads, s.key_dim, dtype=s.dtype, device=device) for s in shapes]
        self.values = [torch.empty(slots, s.heads, s.value_dim, dtype=s.dtype, device=device) for s in shapes]

    @property
    def tokens(self) -> int:
        return self.blocks * BLOCK

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` keys and values of block `source` to block `target`."""
        here, there = source * BLOCK, target * BLOCK
        with torch.inference_mode():
            for slab in (*self.keys, *self.values):
                slab[there : there + tokens] = slab[here : here + tokens]


def default_tokens(shapes: list[LayerShape], device: torch.device, context: int, max_sequences: int) -> int:
    """Return how many tokens to hold when nobody said.

    Never more than a quarter of the free memory, nor than `max_sequences` full contexts can use; within that a modest
    amount, or one full context where that is more.
    """
    each: int = sum(s.heads * (s.key_dim + s.value_dim) * s.dtype.itemsize for s in shapes)
    affordable = int(_free_memory(device) * _SHARE) // each
    return min(affordable, max(_MODEST // each, context), context * max_sequences)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        mps: Any = torch.mps
        return int(mps.recommended_max_memory() - mps.driver_allocated_memory())
    return min(_system_memory(), _control_group_memory())


def _system_memory() -> int:
    try:
        with Path("/proc/meminfo").open() as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # Not Linux: call half of what is installed free.
        return int(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE") // 2


def _control_group_memory() -> int:
    """Return what a container's limit leaves, or more than any machine has where there is none."""
    group = Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return 1 << 62

"""Attention over packed tokens: many sequences in one row, each looking only at its own past.

A forward gets all its tokens as one row `(1, T)`: first single tokens of sequences that decode, then chunks of
prompts.  Linear layers and norms do not care whose token is whose; attention does, and Transformers lets a function be
registered for it.  Ours writes the new keys and values into the slab and then attends part by part:

- single tokens of similar length together, their keys gathered into one padded batch;
- each chunk alone, over its past and itself.

Padding repeats a slot of the row's own, so that one sequence's infinities cannot reach another.  All index tensors are
made once a step and used by every layer; there is one set for every window size in the model.

Since our name has no entry in Transformers' registry of masks, every model passes None for its mask.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby, pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from illm.backends.local.engine.blocks import BLOCK
from illm.backends.local.engine.kv import KVSlab
from illm.backends.local.engine.scheduler import Piece

NAME = "illm_packed"

# Rows shorter than two to this power share a call; above it, rows of the same power do.
_SHORT = 7

_Slots: TypeAlias = slice | torch.Tensor


class Attention(Protocol):
    """What answers the model's attention calls during one forward."""

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """Return `(1, T, heads, dim)` for a query of `(1, heads, T, dim)`."""


_current: ContextVar[Attention] = ContextVar("illm_attention")


def _registered(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    options["attention_mask"] = attention_mask
    return _current.get().attend(module, query, key, value, options), None


AttentionInterface.register(NAME, _registered)


@contextmanager
def attending(attention: Attention) -> Iterator[None]:
    """Answer the attention calls of this thread with `attention`."""
    token = _current.set(attention)
    try:
        yield
    finally:
        _current.reset(token)


class _Rows(NamedTuple):
    """Single tokens `rows`, each over `length` slots; `bias` is `(rows, 1, 1, length)` or None."""

    rows: slice
    slots: _Slots
    length: int
    bias: torch.Tensor | None

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        rows = query[0, :, self.rows].transpose(0, 1)
        count, heads, dim = rows.shape
        groups = heads // keys.shape[1]
        # Query heads that share a key head become its rows: no key is copied for them.
        out = scaled_dot_product_attention(
            rows.reshape(count, keys.shape[1], groups, dim),
            _take(keys, self.slots).unflatten(0, (count, self.length)).transpose(1, 2),
            _take(values, self.slots).unflatten(0, (count, self.length)).transpose(1, 2),
            attn_mask=None if self.bias is None else self.bias.expand(count, 1, groups, self.length),
            scale=scaling,
        )
        return out.reshape(count, heads, -1)


class _Chunk(NamedTuple):
    """Tokens `rows` of one sequence over its slots; `bias` is `(rows, slots)`, None is plainly causal."""

    rows: slice
    slots: _Slots
    bias: torch.Tensor | None

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        out = scaled_dot_product_attention(
            query[:, :, self.rows],
            _take(keys, self.slots).transpose(0, 1).unsqueeze(0),
            _take(values, self.slots).transpose(0, 1).unsqueeze(0),
            attn_mask=self.bias,
            is_causal=self.bias is None,
            scale=scaling,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        return out[0].transpose(0, 1)


class PackedStep:
    """The attention of one forward.

    Args:
        pieces: in packed order: single tokens by rising length, then chunks.
        kv: where keys and values are.
    """

    def __init__(self, pieces: Sequence[Piece], kv: KVSlab) -> None:
        self._kv = kv
        self._slots = torch.tensor([slot for piece in pieces for slot in _new_slots(piece)], device=kv.device)
        dtype = kv.shapes[0].dtype
        self._parts = {
            window: list(_parts(pieces, window, dtype, kv.device)) for window in {s.window for s in kv.shapes}
        }

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        layer = module.layer_idx
        keys, values = self._kv.keys[layer], self._kv.values[layer]
        keys.index_copy_(0, self._slots, key[0].transpose(0, 1))
        values.index_copy_(0, self._slots, value[0].transpose(0, 1))
        scaling = options.get("scaling")
        done = [part.attend(query, keys, values, scaling) for part in self._parts[self._kv.shapes[layer].window]]
        return (done[0] if len(done) == 1 else torch.cat(done)).unsqueeze(0)


def _parts(
    pieces: Sequence[Piece], window: int | None, dtype: torch.dtype, device: torch.device
) -> Iterator[_Rows | _Chunk]:
    at = 0
    singles = [piece for piece in pieces if piece.size == 1]
    for _, same in groupby(singles, key=lambda piece: _size_class(_seen(piece.start, window))):
        group = list(same)
        yield _rows(group, slice(at, at + len(group)), window, dtype, device)
        at += len(group)
    for piece in pieces[len(singles) :]:
        yield _chunk(piece, slice(at, at + piece.size), window, dtype, device)
        at += piece.size


def _rows(group: list[Piece], rows: slice, window: int | None, dtype: torch.dtype, device: torch.device) -> _Rows:
    seen = [_seen(piece.start, window) for piece in group]
    length = max(seen)
    if len(group) == 1:
        piece = group[0]
        return _Rows(rows, _run(piece, piece.start + 1 - length, device), length, None)
    width = max(len(piece.sequence.blocks) for piece in group)
    table = torch.tensor(
        [blocks + blocks[-1:] * (width - len(blocks)) for blocks in (p.sequence.blocks for p in group)]
    )
    last = torch.tensor([[piece.start] for piece in group])
    offset = torch.arange(length)
    position = last + 1 - torch.tensor(seen).unsqueeze(1) + offset
    padding = position > last
    position = position.minimum(last)
    slots = table.gather(1, position // BLOCK) * BLOCK + position % BLOCK
    bias = None
    if min(seen) < length:
        bias = torch.zeros(position.shape, dtype=dtype).masked_fill_(padding, float("-inf"))[:, None, None].to(device)
    return _Rows(rows, slots.flatten().to(device), length, bias)


def _chunk(piece: Piece, rows: slice, window: int | None, dtype: torch.dtype, device: torch.device) -> _Chunk:
    end = piece.start + piece.size
    first = piece.start + 1 - _seen(piece.start, window)
    slots = _run(piece, first, device)
    if first == piece.start == 0 and (window is None or end <= window):
        return _Chunk(rows, slots, None)
    own = torch.arange(piece.start, end, device=device).unsqueeze(1)
    theirs = torch.arange(first, end, device=device)
    hidden = theirs > own
    if window is not None:
        hidden |= theirs <= own - window
    return _Chunk(
        rows, slots, torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
    )


def _seen(position: int, window: int | None) -> int:
    """Return how many tokens the one at `position` sees, itself included."""
    return position + 1 if window is None else min(position + 1, window)


def _size_class(length: int) -> int:
    return max(_SHORT, (length - 1).bit_length())


def _new_slots(piece: Piece) -> list[int]:
    blocks = piece.sequence.blocks
    return [
        blocks[position // BLOCK] * BLOCK + position % BLOCK
        for position in range(piece.start, piece.start + piece.size)
    ]


def _run(piece: Piece, first: int, device: torch.device) -> _Slots:
    """Return the slots from position `first` to the piece's end: a slice, which costs no copy, where they are a run."""
    end = piece.start + piece.size
    blocks = piece.sequence.blocks[first // BLOCK : (end - 1) // BLOCK + 1]
    if all(right == left + 1 for left, right in pairwise(blocks)):
        start = blocks[0] * BLOCK + first % BLOCK
        return slice(start, start + end - first)
    slots = (torch.tensor(blocks).unsqueeze(1) * BLOCK + torch.arange(BLOCK)).flatten()
    start = first % BLOCK
    return slots[start : start + end - first].to(device)


def _take(slab: torch.Tensor, slots: _Slots) -> torch.Tensor:
    return slab[slots] if isinstance(slots, slice) else slab.index_select(0, slots)

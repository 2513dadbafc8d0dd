"""A decode step of one sequence with rounded weights, without the model's modules.

When weights are few to read, much of a step of one row goes to operators on a few hundred numbers, and to the Python
between them.  Here the layers that Llama, Mistral, Qwen3 and Gemma 3 have in common are written out with fewer: queries
and keys are normed and turned together, what is added up stays float32, and each row is made twice at once, as the
kernel wants it.

The model's own step is the measure: where this one says something else, or cannot be built, the model's own stays.
"""

import logging
from collections.abc import Callable, Sequence
from math import isfinite
from statistics import median
from typing import Any, NamedTuple

import torch

from illm.backends.local.engine.attention import PackedStep
from illm.backends.local.engine.blocks import BlockPool
from illm.backends.local.engine.norms import LooseNorm, over_heads
from illm.backends.local.engine.one_row import OneRowLinear, SplitInt8
from illm.backends.local.engine.parts import LayerParts, Turns, parts_of
from illm.backends.local.engine.runner import Runner
from illm.backends.local.engine.scheduler import Piece
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest

_log = logging.getLogger(__name__)


class _Norm(NamedTuple):
    """What a norm multiplies by, `(rows, dim)`, and the least length it divides by; see `LooseNorm`."""

    scale: torch.Tensor
    least: torch.Tensor

    def __call__(self, wide: torch.Tensor) -> torch.Tensor:
        """Return a new `(rows, dim)` float32 of `(rows or 1, dim)`."""
        return wide.div(self.length(wide)).mul(self.scale)

    def length(self, wide: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(wide, 2, -1, keepdim=True).hypot_(self.least)


class _Attention(NamedTuple):
    """Queries, keys and values of `heads` and `shared` heads of `dim` numbers, in one product."""

    module: Any
    product: SplitInt8
    norm: _Norm | None
    output: SplitInt8
    heads: int
    shared: int
    dim: int
    options: dict[str, Any]

    def __call__(self, doubled: torch.Tensor, turns: Turns, step: PackedStep) -> torch.Tensor:
        made = self.product.doubled(doubled)
        width = (self.heads + self.shared) * self.dim
        both = made[:, :width].float().view(-1, self.dim)
        if self.norm is not None:
            both.div_(self.norm.length(both)).mul_(self.norm.scale)
        cosines, sines = turns
        turned = both.mul(cosines).addcmul_(both.roll(self.dim // 2, -1), sines).to(made.dtype)
        query, key = turned.view(1, -1, 1, self.dim).split((self.heads, self.shared), 1)
        value = made[:, width:].view(1, self.shared, 1, self.dim)
        seen = step.attend(self.module, query, key, value, self.options)
        return self.output(seen.reshape(1, -1))


class _Layer(NamedTuple):
    """One layer; the norms behind attention and feed-forward are not in every family."""

    before: _Norm
    attention: _Attention
    behind: _Norm | None
    before_forward: _Norm
    product: SplitInt8
    activation: Callable[[torch.Tensor], torch.Tensor]
    down: SplitInt8
    behind_forward: _Norm | None
    kind: str | None

    def __call__(self, state: torch.Tensor, turns: Turns, step: PackedStep) -> None:
        """Add to `state`, `(1, hidden)` float32, what the layer adds."""
        _add(state, self.attention(self.before(state).bfloat16().view(1, -1), turns, step), self.behind)
        gate, up = self.product.doubled(self.before_forward(state).bfloat16().view(1, -1)).chunk(2, 1)
        active = torch.mul(self.activation(gate).expand(2, -1), up).view(1, -1)
        _add(state, self.down.doubled(active), self.behind_forward)


def _add(state: torch.Tensor, row: torch.Tensor, norm: _Norm | None) -> None:
    if norm is None:
        state.add_(row)
        return
    wide = row.float()
    state.addcmul_(wide.div_(norm.length(wide)), norm.scale)


class FlatDecode:
    """The decode step of one sequence.

    Args:
        model: with layers that `one_row.lighten` and `norms.loosen_norms` have been over.

    Raises:
        AttributeError, TypeError, ValueError: its layers are not of the kind that is known here.
    """

    def __init__(self, model: Any) -> None:
        self._parts = parts_of(model)
        self._layers = [_layer(layer) for layer in self._parts.layers]
        self._norm = _norm(self._parts.norm)

    def takes(self, tokens: int) -> bool:
        """See `runner.Written`."""
        return tokens == 1

    def logits(
        self, step: PackedStep, tokens: Sequence[int], positions: list[int], rows: Sequence[int]
    ) -> torch.Tensor:
        """See `runner.Written`."""
        row = self._parts.embed(torch.tensor([tokens]))[0]
        turns = self._parts.turns(row, positions)
        wide = {kind: (cosines.float(), sines.float()) for kind, (cosines, sines) in turns.items()}
        state = row.float()
        for layer in self._layers:
            layer(state, wide[layer.kind], step)
        return self._parts.head(self._norm(state).to(row.dtype)[: len(rows)])


def flat_decode(model: Any, runner: Runner, pool: BlockPool) -> FlatDecode | None:
    """Return the model's decode step, where it says what the model's own does.

    Args:
        model: as it serves, its weights rounded.
        runner: of the model, without a written-out forward.
        pool: of the memory's blocks; a few are borrowed.
    """
    try:
        flat = FlatDecode(model)
        # Each over a past of its own: what is stored wrongly is then seen too.
        expected, found = (_rehearse(model, runner, pool, written) for written in ((), (flat,)))
        errors = [_distance(*rows) for rows in zip(expected, found, strict=True)]
        if not (median(errors) <= _ROUNDING and all(map(isfinite, errors))):
            raise ValueError(f"its own step says something else (relative error {median(errors):.2g})")
    except Exception as error:  # a model's code is its own, and its own step is always there
        _log.info("a step of one sequence goes through the model's modules: %s: %s", type(error).__name__, error)
        return None
    return flat


def _rehearse(model: Any, runner: Runner, pool: BlockPool, written: Sequence[FlatDecode]) -> list[torch.Tensor]:
    """Return the logits of some steps of one sequence behind a prompt."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    prompt = [(31 * at + 1000) % vocabulary for at in range(_PROMPT)]
    sequence = LiveSequence(SequenceRequest(id=0, prompt=prompt, max_new_tokens=1), lambda _: "")
    try:
        if not pool.grow(sequence.blocks, _PROMPT):
            raise ValueError("there is no memory to try another")
        runner.run([Piece(sequence, 0, _PROMPT - _TRIED, True)])
        runner.written = written
        return [runner.run([Piece(sequence, at, 1, True)])[1] for at in range(_PROMPT - _TRIED, _PROMPT)]
    finally:
        runner.written = ()
        pool.release(sequence.blocks)


_PROMPT, _TRIED = 16, 8  # tokens
_ROUNDING = 0.2
"""How far the logits of two ways to compute a step may be apart, as a part of their spread; the middle of some steps.

In a model of 270 million parameters, rounding alone made it 0.03 to 0.15, and much more for a single step of a text
that means nothing; a turn by one position too many made it 0.5.
"""


def _distance(expected: torch.Tensor, found: torch.Tensor) -> float:
    expected = expected.float()
    return float((found.float() - expected).norm() / (expected - expected.mean()).norm())


def _layer(layer: LayerParts) -> _Layer:
    attention, forward = layer.attention, layer.forward
    product = _together(attention.q_proj, attention.k_proj, attention.v_proj)
    return _Layer(
        before=_norm(layer.before, copies=2),
        attention=_Attention(
            attention, product, None if layer.query_norm is None else _norm_of_both(layer),
            _alone(attention.o_proj), layer.heads, layer.shared, layer.dim, {"scaling": attention.scaling},
        ),
        behind=None if layer.behind is None else _norm(layer.behind),
        before_forward=_norm(layer.before_forward, copies=2),
        product=_together(forward.gate_proj, forward.up_proj),
        activation=forward.act_fn,
        down=_alone(forward.down_proj),
        behind_forward=None if layer.behind_forward is None else _norm(layer.behind_forward),
        kind=layer.kind,
    )  # fmt: skip


def _norm(norm: Any, *, copies: int = 1) -> _Norm:
    if type(norm) is not LooseNorm:
        raise TypeError(f"{type(norm).__name__} is not a norm that is known here")
    return _Norm(norm.scale.expand(copies, -1).contiguous(), norm.least)


def _norm_of_both(layer: LayerParts) -> _Norm:
    norm = over_heads((layer.query_norm, layer.heads), (layer.key_norm, layer.shared))
    if type(norm) is not LooseNorm or norm.scale.shape[1] != layer.dim:
        raise ValueError("its queries and keys are not normed alike, head by head")
    return _Norm(norm.scale, norm.least)


def _together(*layers: Any) -> SplitInt8:
    found = {id(_siblings(layer)): _siblings(layer) for layer in layers}
    if len(found) != 1:
        raise ValueError("its layers are not one product")
    split: SplitInt8 = next(iter(found.values())).whole
    return split


def _alone(layer: Any) -> SplitInt8:
    return _together(layer)


def _siblings(layer: Any) -> Any:
    if type(layer) is not OneRowLinear:
        raise TypeError(f"{type(layer).__name__} is not a layer that is known here")
    return layer.siblings

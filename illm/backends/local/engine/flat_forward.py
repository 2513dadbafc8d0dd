"""A forward of packed bfloat16 layers without the model's modules: the same bits with fewer operators.

With a dozen rows a third of a step goes to operators on a few thousand numbers, and to the Python between them.  Here
the layers that Llama, Mistral, Qwen3 and Gemma 3 have in common are written out: queries, keys and values are one
product, queries and keys are normed and turned together.  Every rounding is where the model has it.  Whether it is so
is tried: where one bit of a rehearsal differs, the model's own forward stays.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from illm.backends.local.engine.attention import PackedStep
from illm.backends.local.engine.blocks import BlockPool
from illm.backends.local.engine.joined import JoinedLinear
from illm.backends.local.engine.norms import FusedNorm, LooseNorm, over_heads
from illm.backends.local.engine.one_row import OneRowLinear
from illm.backends.local.engine.packed import PackedLinear
from illm.backends.local.engine.parts import LayerParts, Turns, parts_of
from illm.backends.local.engine.runner import Runner
from illm.backends.local.engine.scheduler import Piece
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest

_log = logging.getLogger(__name__)

_Rows = Callable[[torch.Tensor], torch.Tensor]


class _Layer(NamedTuple):
    """One layer; the norms of heads, and those behind attention and feed-forward, are not in every family."""

    before: _Rows
    product: _Rows
    heads_norm: _Rows | None
    attention: Any
    output: _Rows
    behind: _Rows | None
    before_forward: _Rows
    wide: _Rows
    activation: _Rows
    narrow: _Rows
    behind_forward: _Rows | None
    heads: int
    shared: int
    dim: int
    options: dict[str, Any]
    kind: str | None

    def __call__(self, state: torch.Tensor, turns: Turns, step: PackedStep) -> torch.Tensor:
        """Return `(tokens, hidden)` for the same."""
        added = self._attend(self.before(state), turns, step)
        state = state + (added if self.behind is None else self.behind(added))
        gate, up = self.wide(self.before_forward(state)).chunk(2, 1)
        added = self.narrow(self.activation(gate) * up)
        return state + (added if self.behind_forward is None else self.behind_forward(added))

    def _attend(self, rows: torch.Tensor, turns: Turns, step: PackedStep) -> torch.Tensor:
        made = self.product(rows).view(len(rows), -1, self.dim)
        both, value = made.split((self.heads + self.shared, self.shared), 1)
        if self.heads_norm is not None:
            both = self.heads_norm(both)
        cosines, sines = turns
        both = both.mul(cosines).add_(both.roll(self.dim // 2, -1).mul_(sines))
        query, key = both.transpose(0, 1).unsqueeze(0).split((self.heads, self.shared), 1)
        seen = step.attend(self.attention, query, key, value.transpose(0, 1).unsqueeze(0), self.options)
        return self.output(seen.reshape(len(rows), -1))


class FlatForward:
    """The forward of a model whose layers are packed and joined.

    Args:
        model: with layers that `packed.pack`, `joined.join` and `norms.fuse_norms` have been over.

    Raises:
        AttributeError, TypeError, ValueError: its layers are not of the kind that is known here.
    """

    def __init__(self, model: Any) -> None:
        self._parts = parts_of(model)
        self._layers = [_layer(layer) for layer in self._parts.layers]
        self._norm = _norm(self._parts.norm)
        # Where layers have other weights for one row, that row is not for these.
        self._least = 2 if any(type(module) is OneRowLinear for module in model.modules()) else 1

    def takes(self, tokens: int) -> bool:
        """See `runner.Written`."""
        return tokens >= self._least

    def logits(
        self, step: PackedStep, tokens: Sequence[int], positions: list[int], rows: Sequence[int]
    ) -> torch.Tensor:
        """See `runner.Written`."""
        state = self._parts.embed(torch.tensor([tokens]))[0]
        turns = {
            kind: (cosines.unsqueeze(1), sines.unsqueeze(1))
            for kind, (cosines, sines) in self._parts.turns(state, positions).items()
        }
        for layer in self._layers:
            state = layer(state, turns[layer.kind], step)
        # The head is the widest layer of all: only for rows that need it.
        return self._parts.head(self._norm(state[torch.tensor(rows, dtype=torch.long)]))


def flat_forward(model: Any, runner: Runner, pool: BlockPool) -> FlatForward | None:
    """Return the model's forward written out, where its bits are the same.

    Args:
        model: as it serves.
        runner: of the model, without a written-out forward.
        pool: of the memory's blocks; a few are borrowed.
    """
    try:
        flat = FlatForward(model)
        expected = _rehearse(runner, pool)
        runner.written = (flat,)
        if not all(map(torch.equal, expected, _rehearse(runner, pool))):
            raise ValueError("written out it says something else")
    except Exception as error:  # a model's code is its own, and its own forward is always there
        _log.info("a forward goes through the model's modules: %s: %s", type(error).__name__, error)
        return None
    finally:
        runner.written = ()
    return flat


def _rehearse(runner: Runner, pool: BlockPool) -> list[torch.Tensor]:
    """Return the logits of a small schedule: a prompt, another beside it as it decodes, and both decoding."""
    vocabulary = int(runner.model.get_input_embeddings().weight.shape[0])
    sequences = [
        LiveSequence(SequenceRequest(id=at, prompt=prompt, max_new_tokens=1), lambda _: "")
        for at, prompt in enumerate([[(31 * place + 1000 * at) % vocabulary for place in range(12)] for at in (1, 2)])
    ]
    first, second = sequences
    try:
        if not all(pool.grow(sequence.blocks, 12) for sequence in sequences):
            raise ValueError("there is no memory to try another")
        return [
            runner.run(pieces)[1]
            for pieces in (
                [Piece(first, 0, 9, True)],
                [Piece(first, 9, 1, True), Piece(second, 0, 5, True)],
                [Piece(first, 10, 1, True), Piece(second, 5, 1, True)],
                [Piece(first, 11, 1, True)],
            )
        ]
    finally:
        for sequence in sequences:
            pool.release(sequence.blocks)


def _layer(layer: LayerParts) -> _Layer:
    attention, forward = layer.attention, layer.forward
    normed = layer.query_norm is not None
    return _Layer(
        before=_norm(layer.before),
        product=_together(attention.q_proj, attention.k_proj, attention.v_proj),
        heads_norm=over_heads((layer.query_norm, layer.heads), (layer.key_norm, layer.shared)).forward
        if normed
        else None,
        attention=attention,
        output=_alone(attention.o_proj),
        behind=None if layer.behind is None else _norm(layer.behind),
        before_forward=_norm(layer.before_forward),
        wide=_together(forward.gate_proj, forward.up_proj),
        activation=forward.act_fn,
        narrow=_alone(forward.down_proj),
        behind_forward=None if layer.behind_forward is None else _norm(layer.behind_forward),
        heads=layer.heads,
        shared=layer.shared,
        dim=layer.dim,
        options={"scaling": attention.scaling},
        kind=layer.kind,
    )


def _norm(norm: Any) -> _Rows:
    if type(norm) not in {FusedNorm, LooseNorm}:
        raise TypeError(f"{type(norm).__name__} is not a norm that is known here")
    forward: _Rows = norm.forward
    return forward


def _together(*layers: Any) -> _Rows:
    exact = [_exact(layer) for layer in layers]
    wholes = {id(layer.siblings.whole) for layer in exact if type(layer) is JoinedLinear}
    if len(wholes) != 1 or not all(type(layer) is JoinedLinear for layer in exact):
        raise ValueError("its layers are not one product")
    forward: _Rows = exact[0].siblings.whole.forward
    return forward


def _alone(layer: Any) -> _Rows:
    exact = _exact(layer)
    if type(exact) is not PackedLinear:
        raise TypeError(f"{type(exact).__name__} is not a layer that is known here")
    forward: _Rows = exact.forward
    return forward


def _exact(layer: Any) -> Any:
    return layer.packed if type(layer) is OneRowLinear else layer

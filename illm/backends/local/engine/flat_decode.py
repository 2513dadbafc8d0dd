"""A decode step of one sequence with rounded weights, without the model's modules.

When weights are few to read, much of a step of one row goes to operators on a few hundred numbers, and to the Python
between them.  Here the layers that Llama, Mistral, Qwen3 and Gemma 3 have in common are written out with fewer: queries
and keys are normed and turned together, what is added up stays float32, and each row is made twice at once, as the
kernel wants it.

What else a model may do is not known here.  So only families are taken whose code has been read, as some do more only
far into a text; and the model's own step is the measure: where this one says something else, or cannot be built, the
model's own stays.
"""

import inspect
import logging
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch

from illm.backends.local.engine.attention import PackedStep
from illm.backends.local.engine.blocks import BlockPool
from illm.backends.local.engine.kv import KVSlab
from illm.backends.local.engine.norms import LooseNorm
from illm.backends.local.engine.one_row import OneRowLinear, SplitInt8
from illm.backends.local.engine.runner import Runner
from illm.backends.local.engine.scheduler import Piece
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest

_log = logging.getLogger(__name__)

_FAMILIES = frozenset({"llama", "mistral", "qwen3", "gemma3_text"})
"""Transformers' `model_type`, of the text model where there are several."""

Turns = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of a position, each `(1, dim)`, the sines' first half negative."""


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
        text = model.config.get_text_config(decoder=True)
        if text.model_type not in _FAMILIES:
            raise ValueError(f"{text.model_type} is not a family that is known here")
        if getattr(text, "final_logit_softcapping", None) is not None:  # too slight to be seen in a comparison
            raise ValueError("it caps its logits")
        decoder = model.get_decoder()
        self._head = model.get_output_embeddings()
        self._embed, self._turns = decoder.embed_tokens, decoder.rotary_emb
        kinds = getattr(text, "layer_types", None) or []
        by_kind = "layer_type" in inspect.signature(self._turns.forward).parameters
        self._layers = [
            _layer(layer, kinds[at] if by_kind else None)
            for at, layer in enumerate(decoder.layers[: text.num_hidden_layers])
        ]
        self._norm = _norm(decoder.norm)

    def logits(self, piece: Piece, kv: KVSlab) -> torch.Tensor:
        """Compute one token of a sequence.

        Args:
            piece: of size one.
            kv: where the sequence's keys and values are, and this token's come.

        Returns:
            `(1, vocabulary)`.
        """
        with torch.inference_mode():
            return self._logits(piece, kv)

    def _logits(self, piece: Piece, kv: KVSlab) -> torch.Tensor:
        token, place = piece.sequence.tokens[piece.start], torch.tensor([[piece.start]])
        step = PackedStep([piece], kv)
        row = self._embed(torch.tensor([[token]]))[0]
        turns = {kind: self._turn(row, place, kind) for kind in {layer.kind for layer in self._layers}}
        state = row.float()
        for layer in self._layers:
            layer(state, turns[layer.kind], step)
        logits: torch.Tensor = self._head(self._norm(state).to(row.dtype))
        return logits

    def _turn(self, row: torch.Tensor, place: torch.Tensor, kind: str | None) -> Turns:
        cosines, sines = self._turns(row, place, *(() if kind is None else (kind,)))
        cosines, sines = cosines[0].float(), sines[0].float()
        sines[:, : sines.shape[1] // 2].neg_()
        return cosines, sines


def flat_decode(model: Any, runner: Runner, pool: BlockPool, kv: KVSlab) -> FlatDecode | None:
    """Return the model's decode step, where it says what the model's own does.

    Args:
        model: as it serves, its weights rounded.
        runner: of the model.
        pool: of the memory's blocks; a few are borrowed.
        kv: the memory.
    """
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    prompt = [(31 * at + 1000) % vocabulary for at in range(_PROMPT)]
    sequence = LiveSequence(SequenceRequest(id=0, prompt=prompt, max_new_tokens=1), lambda _: "")
    try:
        if not pool.grow(sequence.blocks, _PROMPT):
            return None
        flat = FlatDecode(model)
        runner.run([Piece(sequence, 0, _PROMPT - _TRIED, True)])
        pieces = [Piece(sequence, at, 1, True) for at in range(_PROMPT - _TRIED, _PROMPT)]
        errors = [_distance(runner.run([piece])[1], flat.logits(piece, kv)) for piece in pieces]
        if not median(errors) <= _ROUNDING:  # also when it is no number
            raise ValueError(f"its own step says something else (relative error {median(errors):.2g})")
    except Exception as error:  # a model's code is its own, and its own step is always there
        _log.info("a step of one sequence goes through the model's modules: %s: %s", type(error).__name__, error)
        return None
    finally:
        pool.release(sequence.blocks)
    return flat


_PROMPT, _TRIED = 16, 8  # tokens
_ROUNDING = 0.2
"""How far the logits of two ways to compute a step may be apart, as a part of their spread; the middle of some steps.

In a model of 270 million parameters, rounding alone made it 0.03 to 0.15, and much more for a single step of a text
that means nothing; a turn by one position too many made it 0.5.
"""


def _distance(expected: torch.Tensor, found: torch.Tensor) -> float:
    expected = expected.float()
    return float((found.float() - expected).norm() / (expected - expected.mean()).norm())


def _layer(layer: Any, kind: str | None) -> _Layer:
    attention, forward = layer.self_attn, layer.mlp
    product = _together(attention.q_proj, attention.k_proj, attention.v_proj)
    dim = attention.head_dim
    heads, shared = attention.q_proj.out_features // dim, attention.k_proj.out_features // dim
    normed = getattr(attention, "q_norm", None) is not None
    behind = hasattr(layer, "pre_feedforward_layernorm")
    known = {"input_layernorm", "post_attention_layernorm", "self_attn", "mlp"}
    known |= {"pre_feedforward_layernorm", "post_feedforward_layernorm"} if behind else set()
    if {name for name, _ in layer.named_children()} != known:
        raise ValueError("its layers have other parts")
    return _Layer(
        before=_norm(layer.input_layernorm, copies=2),
        attention=_Attention(
            attention, product, _norm_of_both(attention, heads, shared) if normed else None,
            _alone(attention.o_proj), heads, shared, dim, {"scaling": attention.scaling},
        ),
        behind=_norm(layer.post_attention_layernorm) if behind else None,
        before_forward=_norm(layer.pre_feedforward_layernorm if behind else layer.post_attention_layernorm, copies=2),
        product=_together(forward.gate_proj, forward.up_proj),
        activation=forward.act_fn,
        down=_alone(forward.down_proj),
        behind_forward=_norm(layer.post_feedforward_layernorm) if behind else None,
        kind=kind,
    )  # fmt: skip


def _norm(norm: Any, *, copies: int = 1) -> _Norm:
    if type(norm) is not LooseNorm:
        raise TypeError(f"{type(norm).__name__} is not a norm that is known here")
    return _Norm(norm.scale.expand(copies, -1).contiguous(), norm.least)


def _norm_of_both(attention: Any, heads: int, shared: int) -> _Norm:
    query, key = _norm(attention.q_norm), _norm(attention.k_norm)
    if not torch.equal(query.least, key.least) or query.scale.shape[1] != attention.head_dim:
        raise ValueError("its queries and keys are not normed alike, head by head")
    return _Norm(torch.cat((query.scale.expand(heads, -1), key.scale.expand(shared, -1))), query.least)


def _together(*layers: Any) -> SplitInt8:
    found = {id(_siblings(layer)): _siblings(layer) for layer in layers}
    if len(found) != 1:
        raise ValueError("its layers are not one product")
    split: SplitInt8 = next(iter(found.values())).split
    return split


def _alone(layer: Any) -> SplitInt8:
    return _together(layer)


def _siblings(layer: Any) -> Any:
    if type(layer) is not OneRowLinear:
        raise TypeError(f"{type(layer).__name__} is not a layer that is known here")
    return layer.siblings

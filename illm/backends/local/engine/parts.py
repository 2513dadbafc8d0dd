"""What the decoders of some families are made of, so that a forward can be written out without their modules.

What else a model may do is not known here.  So only families are taken whose code has been read, as some do more only
far into a text; and whoever writes a forward out compares it with the model's own.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

_FAMILIES = frozenset({"llama", "mistral", "qwen3", "gemma3_text"})
"""Transformers' `model_type`, of the text model where there are several."""

Turns = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of positions, each `(tokens, dim)`, the sines' first half negative."""


class LayerParts(NamedTuple):
    """The modules of one layer; some norms are not in every family.

    Attributes:
        attention: knows `layer_idx`, and has `heads` query heads and `shared` key heads of `dim` numbers.
        kind: what its turns are asked by, where there are several.
    """

    before: Any
    attention: Any
    query_norm: Any | None
    key_norm: Any | None
    behind: Any | None
    before_forward: Any
    forward: Any
    behind_forward: Any | None
    heads: int
    shared: int
    dim: int
    kind: str | None


class DecoderParts(NamedTuple):
    """The modules of a decoder, and the head behind it."""

    embed: Callable[[torch.Tensor], torch.Tensor]
    rotary: Any
    layers: list[LayerParts]
    norm: Any
    head: Callable[[torch.Tensor], torch.Tensor]

    def turns(self, like: torch.Tensor, positions: list[int]) -> dict[str | None, Turns]:
        """Return the turns of each kind of layer.

        Args:
            like: of the type that they shall have.
            positions: of the tokens.
        """
        places = torch.tensor([positions])
        return {kind: self._turn(like, places, kind) for kind in {layer.kind for layer in self.layers}}

    def _turn(self, like: torch.Tensor, places: torch.Tensor, kind: str | None) -> Turns:
        cosines, sines = self.rotary(like, places, *(() if kind is None else (kind,)))
        half = sines.shape[2] // 2
        return cosines[0], torch.cat((-sines[0, :, :half], sines[0, :, half:]), 1)


def layers_of(model: Any) -> Sequence[Any]:
    """Return the layers of the model's decoder; none where its family is not known here."""
    if model.config.get_text_config(decoder=True).model_type not in _FAMILIES:
        return ()
    layers: Sequence[Any] = getattr(model.get_decoder() if hasattr(model, "get_decoder") else model, "layers", ())
    return layers


def parts_of(model: Any) -> DecoderParts:
    """Return what a model's decoder is made of.

    Raises:
        AttributeError, ValueError: it is of no kind that is known here.
    """
    text = model.config.get_text_config(decoder=True)
    if text.model_type not in _FAMILIES:
        raise ValueError(f"{text.model_type} is not a family that is known here")
    if getattr(text, "final_logit_softcapping", None) is not None:  # too slight to be seen in a comparison
        raise ValueError("it caps its logits")
    decoder = model.get_decoder()
    kinds = getattr(text, "layer_types", None) or []
    by_kind = "layer_type" in inspect.signature(decoder.rotary_emb.forward).parameters
    layers = [
        _layer(layer, kinds[at] if by_kind else None)
        for at, layer in enumerate(layers_of(model)[: text.num_hidden_layers])
    ]
    return DecoderParts(decoder.embed_tokens, decoder.rotary_emb, layers, decoder.norm, model.get_output_embeddings())


def _layer(layer: Any, kind: str | None) -> LayerParts:
    attention = layer.self_attn
    behind = hasattr(layer, "pre_feedforward_layernorm")
    known = {"input_layernorm", "post_attention_layernorm", "self_attn", "mlp"}
    known |= {"pre_feedforward_layernorm", "post_feedforward_layernorm"} if behind else set()
    if {name for name, _ in layer.named_children()} != known:
        raise ValueError("its layers have other parts")
    return LayerParts(
        before=layer.input_layernorm,
        attention=attention,
        query_norm=getattr(attention, "q_norm", None),
        key_norm=getattr(attention, "k_norm", None),
        behind=layer.post_attention_layernorm if behind else None,
        before_forward=layer.pre_feedforward_layernorm if behind else layer.post_attention_layernorm,
        forward=layer.mlp,
        behind_forward=layer.post_feedforward_layernorm if behind else None,
        heads=attention.q_proj.out_features // attention.head_dim,
        shared=attention.k_proj.out_features // attention.head_dim,
        dim=attention.head_dim,
        kind=kind,
    )

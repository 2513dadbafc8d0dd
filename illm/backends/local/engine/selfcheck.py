"""Does the engine's forward say the same as the model's own?

An architecture nobody thought of may pass what the attention function does not know, or keep its past elsewhere, and
would then answer fluently and wrongly.  So before an engine serves, its layers are probed with one token, and a small
mixed schedule is compared with the model's own attention.
"""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from illm.backends.local.engine.architecture import UnsupportedModel, expected_windows
from illm.backends.local.engine.attention import NAME, attending
from illm.backends.local.engine.blocks import BlockPool
from illm.backends.local.engine.kv import LayerShape
from illm.backends.local.engine.runner import Forward
from illm.backends.local.engine.scheduler import Piece
from illm.backends.local.engine.sequence import LiveSequence, SequenceRequest

# Arguments that change what attention means, under the names that Transformers' models use.
_FOREIGN = ("attention_mask", "softcap", "s_aux", "sinks", "position_bias", "block_sequence_ids")
# Part of the spread of the logits; a wrong mask or a lost past is an error of the order of one.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_LOW_PRECISION_TOLERANCE = 0.15
_WINDOW_TO_PASS = 64


class _Probe:
    """Stands in for attention once, and notes what each layer asks."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerShape] = {}

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        for name in _FOREIGN:
            if options.get(name) is not None:
                raise UnsupportedModel(f"its attention is given {name!r}, which the engine does not know")
        layer = getattr(module, "layer_idx", None)
        if not isinstance(layer, int) or layer in self.layers:
            raise UnsupportedModel("its attention layers are not numbered one by one")
        if getattr(module, "is_causal", True) is False:
            raise UnsupportedModel("its attention is bidirectional")
        self.layers[layer] = LayerShape(
            key.shape[1], key.shape[3], value.shape[3], options.get("sliding_window"), key.dtype
        )
        out = scaled_dot_product_attention(query, key, value, enable_gqa=query.shape[1] != key.shape[1])
        return out.transpose(1, 2)


def probe(model: Any) -> list[LayerShape]:
    """Return what each attention layer of the model keeps; the model's attention function is already ours.

    Raises:
        UnsupportedModel: it does not ask the attention function for everything, or for something unknown.
    """
    probing = _Probe()
    with torch.inference_mode(), attending(probing):
        model(
            input_ids=torch.tensor([[0]], device=model.device),
            position_ids=torch.tensor([[0]], device=model.device),
            use_cache=False,
            logits_to_keep=1,
        )
    shapes = [shape for _, shape in sorted(probing.layers.items())]
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    if sorted(probing.layers) != list(range(layers)):
        raise UnsupportedModel("not all of its layers use Transformers' attention interface")
    if [shape.window for shape in shapes] != expected_windows(model.config, layers):
        raise UnsupportedModel("its layers and its configuration disagree about the sliding window")
    if len({shape.dtype for shape in shapes}) > 1:
        raise UnsupportedModel("its layers keep keys of different types")
    return shapes


class Reference(NamedTuple):
    """Two prompts and the model's own logits for each of their positions."""

    prompts: list[list[int]]
    logits: list[torch.Tensor]


def reference(model: Any) -> Reference:
    """Run two small prompts through the model as it is, with an attention function of its own."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None) or 0
    length = 12 + (window if window <= _WINDOW_TO_PASS else 0)
    prompts = [[(7919 * i + 101 * j) % config.vocab_size for i in range(size)] for j, size in enumerate((length, 7))]
    own = model.config._attn_implementation
    if own == NAME:
        model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        logits = [model(input_ids=torch.tensor([p], device=model.device), use_cache=False).logits[0] for p in prompts]
    if own == NAME:
        model.set_attn_implementation(NAME)
    return Reference(prompts, logits)


def check(runner: Forward, pool: BlockPool, expected: Reference) -> None:
    """Run the reference's prompts through the engine's forward, in chunks, together and decoding.

    Raises:
        UnsupportedModel: the logits differ by more than rounding explains.
    """
    long, short = _sequences(expected)
    end = len(long.tokens)
    _run(
        runner, pool, expected, [long, short],
        [Piece(long, 0, 5, False), Piece(short, 0, 6, True)],
        [Piece(short, 6, 1, True), Piece(long, 5, end - 6, True)],
        [Piece(long, end - 1, 1, True)],
    )  # fmt: skip


def check_in_turns(runner: Forward, pool: BlockPool, expected: Reference) -> None:
    """As `check`, for a forward that computes sequences one after the other: one token each."""
    sequences = _sequences(expected)
    steps = []
    for back in (2, 1, 0):
        for sequence in sequences:
            end = len(sequence.tokens) - back
            start = 0 if back == 2 else end - 1
            steps.append([Piece(sequence, start, end - start, True)])
    _run(runner, pool, expected, sequences, *steps)


def check_one_by_one(runner: Forward, pool: BlockPool, expected: Reference) -> None:
    """As `check`, but never two at a time: for a model that keeps the past of one sequence."""
    sequences = _sequences(expected)
    for sequence in sequences:
        end = len(sequence.tokens)
        steps = [[Piece(sequence, 0, end - 2, True)], *([Piece(sequence, at, 1, True)] for at in (end - 2, end - 1))]
        _run(runner, pool, expected, sequences, *steps)


def _sequences(expected: Reference) -> list[LiveSequence]:
    return [
        LiveSequence(SequenceRequest(id=i, prompt=prompt, max_new_tokens=1), lambda _: "")
        for i, prompt in enumerate(expected.prompts)
    ]


def _run(
    runner: Forward, pool: BlockPool, expected: Reference, sequences: list[LiveSequence], *steps: list[Piece]
) -> None:
    try:
        for sequence in sequences:
            if not pool.grow(sequence.blocks, len(sequence.tokens)):
                return  # hardly any memory at all: nothing to check with
        for pieces in steps:
            sampling, logits = runner.run(pieces)
            for sequence, row in zip(sampling, logits, strict=True):
                _compare(row, expected.logits[sequences.index(sequence)][sequence.computed - 1])
    finally:
        for sequence in sequences:
            pool.release(sequence.blocks)


def _compare(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    tolerance = _TOLERANCE.get(theirs.dtype, _LOW_PRECISION_TOLERANCE)
    ours, theirs = ours.float(), theirs.float()
    spread = (theirs - theirs.mean()).norm()
    error = float((ours - theirs).norm() / spread.clamp(min=1e-6))
    if not error <= tolerance:  # also when it is no number
        raise UnsupportedModel(f"its own attention and the engine's disagree (relative error {error:.2g})")

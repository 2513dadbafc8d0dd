"""The engine for every model that the packed loop refuses: the same queue, sampler and stops, another forward.

It is slower, since sequences take turns instead of sharing a forward.  What a client sees is the same.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from illm.backends.local.engine import selfcheck
from illm.backends.local.engine.architecture import UnsupportedModel, position_limit
from illm.backends.local.engine.blocks import BLOCK, BlockPool, blocks_for
from illm.backends.local.engine.engine import UNSAID_CONTEXT, Engine
from illm.backends.local.engine.int8 import head_for
from illm.backends.local.engine.kv import LayerShape, default_tokens
from illm.backends.local.engine.norms import fuse_norms
from illm.backends.local.engine.own_cache import Keeping, OwnCacheRunner
from illm.backends.local.engine.packed import pack
from illm.backends.local.engine.sequence import RequestTooLarge, SequenceRequest

_log = logging.getLogger(__name__)

_SCORED = 1 << 30
"""Bytes that the logits of one prompt may take."""

_MOST_SEQUENCES = 8
"""Sequences that take turns: a step is a forward for each, and nothing can be cancelled within it."""


class TransformersEngine(Engine):
    """See `Engine`; it differs in what it asks of a model, which is only to generate.

    Args:
        model: a Transformers model for causal language modelling, in eval mode, on its device, with its own attention.
        decode: token ids to text, special tokens left out.
        kv_tokens: how many tokens all caches together may hold; by default a part of what is free.
        max_sequences: how many sequences may take turns, at most `_MOST_SEQUENCES`.
        packed: lay bfloat16 weights out for the CPU, where it can.
        quantize: as for `Engine`.

    Raises:
        UnsupportedModel: it is no decoder, or its forward gives something else each time.
    """

    loop = "transformers"

    def __init__(
        self,
        model: Any,
        decode: Callable[[Sequence[int]], str],
        *,
        kv_tokens: int | None = None,
        max_sequences: int = 64,
        packed: bool = True,
        quantize: str = "none",
    ) -> None:
        if getattr(model.config, "is_encoder_decoder", False):
            raise UnsupportedModel("it is an encoder-decoder model")
        expected = selfcheck.reference(model)
        head = head_for(model, quantize)
        if packed:
            pack(model, but=head)
        fuse_norms(model)
        keeping = _tried(model, expected)
        runner = OwnCacheRunner(model, keeping)
        most = min(max_sequences, _MOST_SEQUENCES) if keeping is Keeping.EACH else 1
        limit = position_limit(model.config)
        if kv_tokens is None:
            each = LayerShape(1, max(1, runner.bytes_a_token()), 0, None, torch.uint8)
            kv_tokens = default_tokens([each], model.device, limit or UNSAID_CONTEXT, most)
        pool = BlockPool(max(1, kv_tokens // BLOCK), cache=False)
        # A prompt goes through whole, whatever else runs, so a chunk is never smaller.
        whole = pool.total * BLOCK
        self._quantize(model, head)
        self._open(model, decode, runner, pool, limit, max_sequences=most, busy_chunk=whole, idle_chunk=whole)
        _log.info("Transformers' own loop: %s; %d at once, context %d", keeping.value, most, self.context)

    def add(self, request: SequenceRequest) -> None:
        """As `Engine.add`; a prompt whose tokens are scored goes through the head as a whole, so it has a limit."""
        most = _SCORED // (4 * self._vocabulary)
        if request.prompt_scores and len(request.prompt) > most:
            raise RequestTooLarge(
                f"a prompt of {len(request.prompt)} tokens is to be scored, more than the {most} there is room for",
                "echo",
            )
        super().add(request)


def _tried(model: Any, expected: selfcheck.Reference) -> Keeping:
    """Return the first way of keeping the past that gives the model's own logits."""
    problem: Exception | None = None
    pool = BlockPool(2 * blocks_for(max(map(len, expected.prompts))))
    for keeping, check in _WAYS.items():
        try:
            check(OwnCacheRunner(model, keeping), pool, expected)
        except Exception as error:
            # Whatever a foreign cache does when it is used in a way that its model did not expect: any type.
            _log.debug("%s: %s", keeping.value, error, exc_info=error)
            problem = error
        else:
            return keeping
    raise UnsupportedModel("its forward gives other logits each time") from problem


# From the fastest to the one that cannot go wrong.
_WAYS: dict[Keeping, Callable[[Any, BlockPool, selfcheck.Reference], None]] = {
    Keeping.EACH: selfcheck.check_in_turns,
    Keeping.ONE: selfcheck.check_one_by_one,
    Keeping.NOTHING: selfcheck.check_in_turns,
}

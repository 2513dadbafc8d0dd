"""Which loop drives a model: the packed one wherever it can, else Transformers' own way of generating."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from illm.backends.local.engine.architecture import UnsupportedModel
from illm.backends.local.engine.engine import Engine
from illm.backends.local.engine.transformers_loop import TransformersEngine

_log = logging.getLogger(__name__)


def engine_for(
    model: Any,
    decode: Callable[[Sequence[int]], str],
    *,
    kv_tokens: int | None = None,
    max_sequences: int = 64,
    prefix_cache: bool = True,
    quantize: str = "none",
) -> Engine:
    """Return an engine over a model.  See `Engine` for the arguments; only the packed loop has a prefix cache.

    Raises:
        UnsupportedModel: neither loop can drive it.
    """
    own = model.config._attn_implementation
    try:
        return Engine(
            model,
            decode,
            kv_tokens=kv_tokens,
            max_sequences=max_sequences,
            prefix_cache=prefix_cache,
            quantize=quantize,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except UnsupportedModel as refusal:
        reason = str(refusal)
    except Exception as error:
        # A model that nobody thought of may trip over our attention in any way; its own still works.
        _log.debug("the packed loop failed", exc_info=error)
        reason = f"its forward fails with the engine's attention ({type(error).__name__})"
    _log.warning("the packed loop does not fit this model: %s; Transformers' own, slower loop drives it", reason)
    model.set_attn_implementation(own)
    engine = TransformersEngine(model, decode, kv_tokens=kv_tokens, max_sequences=max_sequences, quantize=quantize)
    engine.loop_reason = reason
    return engine

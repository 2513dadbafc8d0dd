"""A continuous-batching text engine over an unmodified Transformers model.

    engine = Engine(model, decode)
    engine.add(SequenceRequest(id=1, prompt=ids, max_new_tokens=64, eos=frozenset({2})))
    while engine.busy:
        for output in engine.step():
            ...

It is synchronous and belongs to one thread: whoever owns the thread loads the model there, tokenises, and posts the
outputs on.  Nothing here knows about chats, actors or HTTP.

Which file has which idea: `sequence` what is asked and how far it got, `scheduler` which tokens run next, `blocks` who
holds which piece of KV memory, `kv` the memory itself, `attention` how packed tokens of many sequences look only at
their own past, `illustrated` prompts with pictures among their tokens, `runner` one forward, `sampler` logits to ids,
`scores` how likely those were, `packed` faster linear layers, `int8` an int8 head, `scanned_head` one that knows only
the likeliest tokens exactly, `architecture` which models this can drive, `selfcheck` whether it drives one rightly.

For models that it cannot drive: `own_cache` another forward, `transformers_loop` the engine over that, `choose` which
of the two it is.
"""

from typing import TYPE_CHECKING, Any

from illm.backends.local.engine.architecture import UnsupportedModel, supports
from illm.backends.local.engine.sequence import FAILED, RequestTooLarge, Score, SequenceOutput, SequenceRequest
from illm.backends.local.engine.stats import Stats

if TYPE_CHECKING:
    from illm.backends.local.engine.choose import engine_for
    from illm.backends.local.engine.engine import Engine

__all__ = [
    "FAILED",
    "Engine",
    "RequestTooLarge",
    "Score",
    "SequenceOutput",
    "SequenceRequest",
    "Stats",
    "UnsupportedModel",
    "engine_for",
    "supports",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; whoever only asks `supports` or builds a request need not wait for it.
    if name == "Engine":
        from illm.backends.local.engine.engine import Engine

        return Engine
    if name == "engine_for":
        from illm.backends.local.engine.choose import engine_for

        return engine_for
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

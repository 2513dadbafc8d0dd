"""A tokenizer that is done changing, for whoever asks it for its added tokens with every prompt.

Transformers has the native half build that table anew at each look, and looks twice for each chat, to keep control
tokens out of what clients write; then it searches the template for each of them.  Some models have thousands: it took
several times as long as the tokenising, and kept the interpreter from everybody else meanwhile.
"""

import copy
from functools import lru_cache
from typing import Any

_TEMPLATES = 8
"""A model has one or two; what its control tokens are is remembered for so many."""


def settled(tokenizer: Any) -> Any:
    """Return a shallow copy of a Transformers tokenizer that looks up its added tokens once.

    Args:
        tokenizer: it is not changed; what is added to it later, the copy does not know of.
    """
    decoder, encoder = tokenizer.added_tokens_decoder, tokenizer.added_tokens_encoder
    known = type(tokenizer)
    tables: dict[str, Any] = {
        "added_tokens_decoder": property(lambda _: decoder),
        "added_tokens_encoder": property(lambda _: encoder),
    }
    if hasattr(known, "_get_control_tokens"):  # private: where it goes, the time comes back and nothing else changes
        find = lru_cache(_TEMPLATES)(tokenizer._get_control_tokens)
        tables["_get_control_tokens"] = lambda _, template: find(template)
    copied = copy.copy(tokenizer)
    # Looked up in the type, and by the type's name in places: so a type of the same name.
    copied.__class__ = type(known.__name__, (known,), {"__module__": known.__module__, **tables})
    return copied

"""Texts into rows of token ids for encoders, many at a time, and never silently shortened.

The tokenizer's native half is driven directly where that gives the same ids: it takes a batch, lets go of the
interpreter's lock meanwhile, and spares the detour over dictionaries.
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from illm.core.requests import WHOLE
from illm.errors import GatewayError, Kind

Item = str | tuple[int, ...] | tuple[str, str]
"""A text, token ids that are taken as they are, or a pair of texts that the model reads together."""

Row: TypeAlias = NDArray[np.int32]
"""Token ids and, below them, which text of a pair each belongs to: shape (2, tokens)."""

Name = Callable[[int], str]
"""How an error calls the item at a place: the request's field, as a dotted path."""

_SAMPLES = ("Hello, world", "Grüße  aus\nKöln 🌍", "")


class Tokeniser:
    """One encoder's tokenizer.  May be called from several threads.

    Args:
        tokenizer: of Transformers.
        served: the model's id, for errors.
        limit: the longest row in tokens.
        vocabulary: how many token ids the model knows.

    Attributes:
        limit: see above.
    """

    def __init__(self, tokenizer: Any, served: str, *, limit: int, vocabulary: int) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        self.vocabulary = vocabulary
        self.lock = Lock()
        self._served = served
        self._native = _native(tokenizer)

    @property
    def padding(self) -> int:
        """The id that fills rows up."""
        return self.tokenizer.pad_token_id or 0

    def room(self, cut: int | None) -> int | None:
        """Return to how many tokens rows are cut, or None where that is not wanted.

        Raises:
            GatewayError: `INVALID_REQUEST` for more than the model takes.
        """
        if cut is not None and cut > self.limit:
            raise GatewayError(
                Kind.INVALID_REQUEST,
                f"truncate_prompt_tokens must be at most {self.limit}, which is what '{self._served}' takes.",
                param="truncate_prompt_tokens",
            )
        return self.limit if cut == WHOLE else cut

    def rows(self, items: Sequence[Item], name: Name, *, room: int | None = None) -> list[Row]:
        """Tokenise.

        Args:
            items: what to tokenise.
            name: see `Name`.
            room: cut longer rows to so many tokens (of a pair, the longer text is cut); None refuses what is longer
                than the limit.

        Raises:
            GatewayError: `INVALID_REQUEST` for what is not text, is empty, too long or not in the vocabulary.
        """
        texts = [at for at, item in enumerate(items) if isinstance(item, str) or _pair(item)]
        found = self._encode([items[at] for at in texts], room, lambda at: name(texts[at]))
        encoded = dict(zip(texts, found, strict=True))
        return [encoded[at] if at in encoded else self._ids(items[at], name(at), room) for at in range(len(items))]

    def _ids(self, ids: Any, name: str, room: int | None) -> Row:
        row: Row = np.zeros((2, len(ids) if room is None else min(len(ids), room)), np.int32)
        wrong = next((token for token in ids if not 0 <= token < self.vocabulary), None)
        if wrong is not None:
            raise _invalid(f"{name}: token id {wrong} is outside the vocabulary of {self.vocabulary}.", name)
        row[0] = ids[: row.shape[1]]
        self._check(row.shape[1], name)
        return row

    def _encode(self, texts: Sequence[Any], room: int | None, name: Name) -> list[Row]:
        if not texts:
            return []
        try:
            with self.lock:
                if self._native is None:
                    found = [self._slowly(text, room) for text in texts]
                else:
                    found = self._natively(texts, room)
        except (ValueError, TypeError) as error:  # half a surrogate pair
            wrong = name(next((at for at, text in enumerate(texts) if not _writable(text)), 0))
            raise _invalid(f"{wrong} is not valid text.", wrong) from error
        rows = []
        for at, (ids, types) in enumerate(found):
            row = np.array((ids, types), np.int32) if ids else self._start()
            self._check(row.shape[1], name(at))
            rows.append(row)
        return rows

    def _natively(self, texts: Sequence[Any], room: int | None) -> list[tuple[list[int], list[int]]]:
        native = self._native
        if room is not None:
            native.enable_truncation(
                room, strategy="longest_first", direction=getattr(self.tokenizer, "truncation_side", "right")
            )
        else:
            native.no_truncation()
        native.no_padding()
        return [(encoding.ids, encoding.type_ids) for encoding in native.encode_batch_fast(list(texts))]

    def _slowly(self, text: Any, room: int | None) -> tuple[list[int], list[int]]:
        pair = text if isinstance(text, tuple) else (text,)
        cut = {} if room is None else {"truncation": "longest_first", "max_length": room}
        encoded = self.tokenizer(*pair, return_token_type_ids=True, verbose=False, **cut)
        return encoded["input_ids"], encoded["token_type_ids"]

    def _start(self) -> Row:
        # The empty text is a text; a tokenizer that adds nothing of its own still needs one token to look at.
        known = self.tokenizer
        start = (known.bos_token_id, known.eos_token_id, known.pad_token_id)
        first = [token for token in start if token is not None][:1]
        return np.array((first, [0] * len(first)), np.int32)

    def _check(self, length: int, name: str) -> None:
        if not length:
            raise _invalid(f"{name} is empty for this model.", name)
        if length > self.limit:
            raise _invalid(f"{name} has {length} tokens; '{self._served}' takes at most {self.limit}.", name)


def _pair(item: Any) -> bool:
    return len(item) == 2 and isinstance(item[0], str)


def _writable(text: str | tuple[str, ...]) -> bool:
    try:
        "".join(text).encode()
    except UnicodeEncodeError:
        return False
    return True


def _native(tokenizer: Any) -> Any:
    """Return a tokenizer's native half, unless it alone would give other ids than the whole."""
    native = getattr(tokenizer, "backend_tokenizer", None)
    if native is None or not hasattr(native, "encode_batch_fast"):
        return None
    for sample in _SAMPLES:
        whole = list(tokenizer.encode(sample, verbose=False))
        native.no_truncation()
        native.no_padding()
        if native.encode(sample).ids != whole:
            return None
    return native


def _invalid(message: str, name: str) -> GatewayError:
    return GatewayError(Kind.INVALID_REQUEST, message, param=name)

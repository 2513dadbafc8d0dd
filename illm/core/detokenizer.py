"""Token ids in, complete text out.

Decoding token by token loses spaces and splits UTF-8; decoding everything each time is quadratic.  So a window is
kept: the ids since the last point at which the text was known to be complete, decoded together with a few before
them, and only the difference is new.  (The two-offset scheme of vLLM and SGLang.)
"""

from collections.abc import Callable, Sequence

_CONTEXT = 6
_REPLACEMENT = "�"


class Detokenizer:
    """One sequence's text, as it grows.

    Args:
        decode: turns token ids into text, special tokens left out.
        context: ids before the first new one (the prompt's end), so that spacing comes out right.
    """

    __slots__ = ("_decode", "_ids", "_prefix", "_read")

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(context[-_CONTEXT:])
        self._prefix = 0
        self._read = len(self._ids)

    def feed(self, ids: Sequence[int]) -> str:
        """Return the text that these ids complete; an unfinished character waits for the next call."""
        self._ids.extend(ids)
        text = self._tail()
        if text.endswith(_REPLACEMENT):
            # Perhaps half a character.  A model that really says U+FFFD is only delayed.
            return ""
        return self._advance(text)

    def close(self) -> str:
        """Return what is left; it may end in U+FFFD where generation stopped inside a character."""
        return self._advance(self._tail())

    def _tail(self) -> str:
        old = self._decode(self._ids[self._prefix : self._read])
        return self._decode(self._ids[self._prefix :])[len(old) :]

    def _advance(self, text: str) -> str:
        if text:
            del self._ids[: self._prefix]
            self._prefix = self._read - self._prefix
            self._read = len(self._ids)
            if self._prefix > _CONTEXT:  # a long unfinished run: keep the window small
                drop = self._prefix - _CONTEXT
                del self._ids[:drop]
                self._prefix -= drop
                self._read -= drop
        return text

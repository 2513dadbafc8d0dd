"""Token ids in, complete text out.

Decoding token by token loses spaces and splits UTF-8; decoding everything each time is quadratic.  So a window is
kept: the ids since the last point at which the text was known to be complete, decoded together with a few before
them, and only the difference is new.  (The two-offset scheme of vLLM and SGLang.)
"""

from collections.abc import Callable, Sequence

_CONTEXT = 6
_REPLACEMENT = "�"
# No character needs as many ids as this.  What is undecided for longer is not half a character but bytes that are
# no text, and waiting for its end would hold back all that follows in an ever growing window.
_PATIENCE = 16
_LONGEST_TAIL = 3  # bytes that can be waiting for the rest of their character


class Detokenizer:
    """One sequence's text, as it grows.

    Args:
        decode: turns token ids into text, special tokens left out.
        context: ids before the first new one (the prompt's end), so that spacing comes out right.
    """

    __slots__ = ("_decode", "_ids", "_read", "_shown")

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        # The window: `_ids[:_read]` is context, whose text is `_shown`, and the rest is not shown yet.
        self._ids = list(context[-_CONTEXT:])
        self._read = len(self._ids)
        self._shown = decode(self._ids)

    def feed(self, ids: Sequence[int]) -> str:
        """Return the text that these ids complete; an unfinished character waits for the next call."""
        self._ids.extend(ids)
        text = self._new(len(self._ids))
        impatient = len(self._ids) - self._read > _PATIENCE
        if text.endswith(_REPLACEMENT):
            # Perhaps half a character.  A model that really says U+FFFD is only delayed.
            return self._show(self._last_complete()) if impatient else ""
        if text:
            return self._show(len(self._ids))
        if impatient:
            del self._ids[self._read :]  # special tokens, of which nothing will ever show
        return ""

    def close(self) -> str:
        """Return what is left; it may end in U+FFFD where generation stopped inside a character."""
        return self._show(len(self._ids))

    def _new(self, end: int) -> str:
        text = self._decode(self._ids[:end])
        if text.startswith(self._shown):
            return text[len(self._shown) :]
        # The prompt ended inside a character that the first new id completes.
        pairs = enumerate(zip(text, self._shown, strict=False))
        return text[next((at for at, (new, old) in pairs if new != old), len(text)) :]

    def _last_complete(self) -> int:
        """Return where the last whole character ends, or, among noise, where half a one may begin."""
        end = len(self._ids)
        for earlier in range(end - 1, end - 1 - _LONGEST_TAIL, -1):
            if not self._new(earlier).endswith(_REPLACEMENT):
                return earlier
        return end - _LONGEST_TAIL

    def _show(self, end: int) -> str:
        text = self._new(end)
        del self._ids[: self._read]
        self._read = end - self._read
        self._shown = self._decode(self._ids[: self._read])
        return text

"""How a constrained text can be brought to its end from where it is: the reserve that is kept of a limit.

A model that was never taught to obey a schema goes on in a string or an array until its tokens are spent, and leaves
half a document.  So beside each constrained sequence a *closing* is known: tokens that complete its text.  As long as
it fits into what is left, the model is free; a token after which none would fit is not taken.

A closing need not be the shortest.  It is found by trying tokens that tend to end things, and is kept from token to
token while it stays valid, which is nearly always and costs microseconds.
"""

import random
from collections.abc import Sequence
from time import thread_time
from typing import Any

_MOST = 2048  # tokens of a closing
_ROUNDS = 3  # the first by rule, the others by chance
_STREAK = 8
_A_TOKEN = 8  # what choosing and taking one costs beside the tries for it
_SECONDS = 0.1  # of this thread's own time, for one round
_STALL = 0.001  # of them that one try may cost
_WORDS = ("0", "null", "true", "false", '""', "[]", "{}", '"', "[", "{", "-")
_ENDS = ("}", "]", '"', ",", ":")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OTHERS = "123456789-.:T/@_+%#?=&;()<>!$*'|~^\\, \n" + _LETTERS
_CONTINUATIONS = (b"\x80", b"\x90", b"\xa0")  # one of them continues any character that was begun

TRIES_AT_FIRST = 60_000
"""Tokens to try for a grammar's beginning, where nobody waits but who asks; one takes about two microseconds."""

TRIES_IN_A_STEP = 9_000
"""The same where a batch waits."""


class _Effort:
    """What a search may still spend.

    Tries are counted, so that a text depends on no clock.  The clock ends only what a hostile grammar makes slow try
    by try; of a try in which the thread was held up (a garbage collection is its own time too) it counts little.
    """

    __slots__ = ("_at", "_seconds", "_tries")

    def __init__(self, tries: int) -> None:
        self._tries, self._seconds, self._at = tries, _SECONDS, thread_time()

    def left(self, tries: int) -> bool:
        """Spend some tries; return whether any are left."""
        now = thread_time()
        self._tries -= tries
        self._seconds -= min(now - self._at, _STALL * tries)
        self._at = now
        return self._tries > 0 and self._seconds > 0


class Closer:
    """Finds closings for one tokenizer.

    Args:
        tokenizer: llguidance's.
        tokens: the bytes of each token.
        ends: the tokens that end a text, in the grammar engine's eyes.
    """

    def __init__(self, tokenizer: Any, tokens: Sequence[bytes], ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.ends = ends
        ids: dict[bytes, int] = {}
        wanted = {text.encode() for text in (*_WORDS, *_ENDS, *_OTHERS)} | set(_CONTINUATIONS)
        for token, spelt in enumerate(tokens):
            if spelt in wanted:
                ids.setdefault(spelt, token)
        self._quote = ids.get(b'"')
        self._letter = ids.get(b"x")
        outside = [*_ENDS[:2], *_WORDS, *_ENDS[2:], *_OTHERS]
        self._outside = [ids[text.encode()] for text in outside if text.encode() in ids]
        self._outside += [ids[text] for text in _CONTINUATIONS if text in ids]

    def find(self, matcher: Any, known: Sequence[int] | None, tries: int) -> list[int] | None:
        """Return tokens that complete the text; none needed where it is complete already.

        Args:
            matcher: where the text is; not changed.
            known: a closing from somewhat earlier in the text.
            tries: how many tokens may be tried, more or less.

        Returns:
            None where none was found.
        """
        if matcher.is_accepting():
            return []
        if known is not None and (kept := self._kept(matcher, known)) is not None:
            return kept
        for attempt in range(_ROUNDS):
            chance = random.Random(attempt) if attempt else None  # noqa: S311
            found = self._build(matcher.deep_copy(), known or (), chance, _Effort(tries // _ROUNDS))
            if found is not None:
                return found
        return None

    def _kept(self, matcher: Any, known: Sequence[int]) -> list[int] | None:
        """Return what of an earlier closing still completes the text."""
        for start in range(min(len(known), 6)):
            rest = list(known[start:])
            if matcher.validate_tokens([*rest, self.ends[0]]) == len(rest) + 1:
                return rest
        return None

    def _build(
        self, matcher: Any, known: Sequence[int], chance: random.Random | None, effort: _Effort
    ) -> list[int] | None:
        made: list[int] = []
        streak = last = 0
        lost = False
        while effort.left(_A_TOKEN) and len(made) < _MOST and not matcher.is_error():
            if matcher.is_accepting():
                return made
            if made and known and (kept := self._kept(matcher, known)) is not None:
                return made + kept
            some = self._forced(matcher)
            if not some:
                # A rule that goes round in circles (`[0-9]+x` has ever one more digit) is left to chance.
                lost = lost or streak > _STREAK
                some = self._chosen(matcher, chance or (random.Random(len(made)) if lost else None), effort)  # noqa: S311
                lost = lost and some != [self._quote]
            if not some or not matcher.consume_tokens(some):
                return None
            made += some
            streak, last = (streak + 1 if some[-1] == last else 0), some[-1]
        return None

    def _forced(self, matcher: Any) -> list[int]:
        try:
            text = matcher.compute_ff_bytes().decode()
        except UnicodeDecodeError:
            return []
        return list(self._tokenizer.greedy_tokenize(text)) if text else []

    def _chosen(self, matcher: Any, chance: random.Random | None, effort: _Effort) -> list[int]:
        """Return a token that may come next; none where that was too hard to say."""

        def fits(token: int | None) -> bool:
            return token is not None and matcher.validate_tokens([token]) == 1

        # Where a letter could stand, text is being written: there a bracket closes nothing, and a quote does.
        if self._quote is not None and fits(self._letter) and fits(self._quote):
            return [self._quote]
        order = self._outside if chance is None else chance.sample(self._outside, len(self._outside))
        for token in order:
            if fits(token):
                return [token]
            if not effort.left(1):
                return []
        return _lowest(matcher.compute_bitmask())


def _lowest(mask: bytes) -> list[int]:
    bits = int.from_bytes(mask, "little")
    return [(bits & -bits).bit_length() - 1] if bits else []

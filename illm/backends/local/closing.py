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
from typing import Any, NamedTuple

_MOST = 2048  # tokens of a closing
_ROUNDS = (0.7, 0.15, 0.15)  # what of its tries each round may use: the first goes by rule, the others by chance
_STREAK = 8
_A_TOKEN = 4  # what choosing and taking one costs beside the tries for it
_WORDS = ("0", "null", "true", "false", '""', "[]", "{}", '"', "[", "{", "-")
_ENDS = ("}", "]", '"', ",", ":")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OTHERS = "123456789-.:T/@_+%#?=&;()<>!$*'|~^\\, \n" + _LETTERS
_CONTINUATIONS = (b"\x80", b"\x90", b"\xa0")  # one of them continues any character that was begun


class Budget(NamedTuple):
    """What one search may cost.

    Args:
        tries: how many tokens may be tried, more or less; one takes about two microseconds.
        seconds: of the thread's own time, where they take longer.
    """

    tries: int
    seconds: float


AT_FIRST = Budget(60_000, 1.0)
"""For a grammar's beginning, where nobody waits but who asks."""

IN_A_STEP = Budget(15_000, 0.08)
"""Where a batch waits."""


class _Effort:
    """What a search may still spend.

    Tries are counted, so that a text depends on no clock.  The clock ends only what a hostile grammar makes slow; the
    longest time between two looks is forgiven, as a garbage collection is the thread's own time too.
    """

    __slots__ = ("_at", "_longest", "_seconds", "_tries", "_whole")

    def __init__(self, budget: Budget) -> None:
        self._whole, self._tries = budget.tries, 0
        self._seconds, self._longest, self._at = budget.seconds, 0.0, thread_time()

    def begin(self, share: float) -> None:
        """Begin a round, which may use so much of all tries."""
        self._tries = int(self._whole * share)

    def left(self, tries: int) -> bool:
        """Spend some tries; return whether any are left."""
        now = thread_time()
        shorter, self._longest = sorted((now - self._at, self._longest))
        self._seconds -= shorter
        self._at = now
        self._tries -= tries
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

    def find(self, matcher: Any, known: Sequence[int] | None, budget: Budget) -> list[int] | None:
        """Return tokens that complete the text; none needed where it is complete already.

        Args:
            matcher: where the text is; not changed.
            known: a closing from somewhat earlier in the text.
            budget: what it may cost.

        Returns:
            None where none was found.
        """
        if matcher.is_accepting():
            return []
        if known is not None and (kept := self._kept(matcher, known)) is not None:
            return kept
        effort = _Effort(budget)
        for attempt, share in enumerate(_ROUNDS):
            effort.begin(share)
            chance = random.Random(attempt) if attempt else None  # noqa: S311
            found = self._build(matcher.deep_copy(), known or (), chance, effort)
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

"""How a constrained text can be brought to its end from where it is: the reserve that is kept of a limit.

A model that was never taught to obey a schema goes on in a string or an array until its tokens are spent, and leaves
half a document.  So beside each constrained sequence a *closing* is known: tokens that complete its text.  As long as
it fits into what is left, the model is free; a token after which none would fit is not taken.

A closing need not be the shortest.  It is found by trying tokens that tend to end things, and is kept from token to
token while it stays valid, which is nearly always and costs microseconds.
"""

import random
from collections.abc import Sequence
from typing import Any

_MOST = 2048  # tokens of a closing
_ROUNDS = 4  # the first by rule, the others by chance: a rule may go round in circles
_WORDS = ("0", "null", "true", "false", '""', "[]", "{}", '"', "[", "{", "-")
_ENDS = ("}", "]", '"', ",", ":")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OTHERS = "123456789-.:T/@_+%#?=&;()<>!$*'|~^\\, \n" + _LETTERS
_CONTINUATIONS = (b"\x80", b"\x90", b"\xa0")  # one of them continues any character that was begun


class Closer:
    """Finds closings for one tokenizer.

    Args:
        tokenizer: llguidance's.
        tokens: the bytes of each token.
        eos: a token that ends a text, in the grammar engine's eyes.
    """

    def __init__(self, tokenizer: Any, tokens: Sequence[bytes], eos: int) -> None:
        self._tokenizer = tokenizer
        self._eos = eos
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

    def find(self, matcher: Any, known: Sequence[int] | None) -> list[int] | None:
        """Return tokens that complete the text; none needed where it is complete already.

        Args:
            matcher: where the text is; not changed.
            known: a closing from somewhat earlier in the text.

        Returns:
            None where none was found.
        """
        if matcher.is_accepting():
            return []
        if known is not None and (kept := self._kept(matcher, known)) is not None:
            return kept
        for attempt in range(_ROUNDS):
            found = self._build(matcher.deep_copy(), known or (), random.Random(attempt) if attempt else None)  # noqa: S311
            if found is not None:
                return found
        return None

    def _kept(self, matcher: Any, known: Sequence[int]) -> list[int] | None:
        """Return what of an earlier closing still completes the text."""
        for start in range(min(len(known), 6)):
            rest = list(known[start:])
            if matcher.validate_tokens([*rest, self._eos]) == len(rest) + 1:
                return rest
        return None

    def _build(self, matcher: Any, known: Sequence[int], chance: random.Random | None) -> list[int] | None:
        made: list[int] = []
        most = _MOST if chance is None else _MOST // 4
        while len(made) < most and not matcher.is_error():
            if matcher.is_accepting():
                return made
            if made and known and (kept := self._kept(matcher, known)) is not None:
                return made + kept
            some = self._forced(matcher) or self._chosen(matcher, chance)
            if not some or not matcher.consume_tokens(some):
                return None
            made += some
        return None

    def _forced(self, matcher: Any) -> list[int]:
        try:
            text = matcher.compute_ff_bytes().decode()
        except UnicodeDecodeError:
            return []
        return list(self._tokenizer.greedy_tokenize(text)) if text else []

    def _chosen(self, matcher: Any, chance: random.Random | None) -> list[int]:
        def fits(token: int | None) -> bool:
            return token is not None and matcher.validate_tokens([token]) == 1

        if chance is not None and chance.random() < 0.5:
            return self._any(matcher, chance)
        # Where a letter could stand, text is being written: there a bracket closes nothing, and a quote does.
        if fits(self._letter) and fits(self._quote):
            return [self._quote] if self._quote is not None else []
        token = next((token for token in self._outside if fits(token)), None)
        return self._any(matcher, chance) if token is None else [token]

    def _any(self, matcher: Any, chance: random.Random | None) -> list[int]:
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        if not mask:
            return []
        # From a random place upwards, if there is a bit above it: a uniform choice would have to count them all.
        above = mask >> (place := chance.randrange(mask.bit_length()) if chance is not None else 0)
        return [place + (above & -above).bit_length() - 1]

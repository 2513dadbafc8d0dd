"""Grammars for a local model: what the text of an answer must be, compiled, bounded, and kept.

llguidance does the work.  Its own limits, which count states and steps, bound nearly everything, and what exceeds them
is the client's error.  What they miss holds up those who want a form, and nobody else: see `threads`.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from illm.backends.local.closing import AT_FIRST, IN_A_STEP, Closer
from illm.backends.local.engine.sequence import NO_TOKEN
from illm.backends.local.schema_errors import limits, llguidance, plain_reason, where
from illm.backends.local.token_bytes import TokenBytes
from illm.errors import GatewayError, Kind

MAX_SOURCE = 1 << 18
"""Characters of a schema, an expression or a grammar."""

_KEPT = 64
_PATIENCE = 64  # tokens after which a closing is looked for again at the latest, where none was found


class Way:
    """One sequence's way through a grammar; see `engine.constraint.Constraint`.

    Args:
        matcher: at the beginning; becomes this object's.
        closer: of the same tokenizer.
        closing: what completes the text from here, if that is known.
        ends: tokens that end a text in the grammar engine's eyes, at least one.
        end: the one of them to end a text with, `NO_TOKEN` where the model has logits for none.
        barred: those of them that this sequence may not choose.
    """

    __slots__ = (
        "_barred", "_closer", "_closing", "_end", "_ends", "_matcher", "_pause", "_ready", "_waits", "cut", "finished",
    )  # fmt: skip

    def __init__(
        self,
        matcher: Any,
        closer: Closer,
        closing: list[int] | None,
        ends: Sequence[int],
        end: int,
        barred: Collection[int],
    ) -> None:
        self._matcher, self._closer, self._closing = matcher, closer, closing
        self._ends, self._end, self._barred = ends, end, barred
        self._ready: bytes | None = None
        self._pause = self._waits = 0
        self.finished = self.cut = False

    @property
    def reserve(self) -> int | None:
        """How many tokens complete the text from here, as far as it is known; perhaps not the fewest."""
        return None if self._closing is None else len(self._closing)

    def mask(self) -> bytes:
        """See `Constraint.mask`."""
        bits: bytes = self._ready if self._ready is not None else self._matcher.compute_bitmask()
        self._ready = None
        if self._matcher.is_error():
            return _only(self._closing[0] if self._closing else self._ends[0], len(bits))
        return _without(bits, self._barred) or bits

    def take(self, token: int, left: int) -> int:
        """See `Constraint.take`."""
        self._ready = None
        if token in self._ends:
            self.finished = True
            return token
        after = self._matcher.deep_copy()
        good = after.consume_token(token)
        closing = self._find(after, left) if good else None
        if not good or self._must_close(closing, left):
            return self._close(token)
        self._matcher, self._closing = after, closing
        self.finished = after.is_stopped() or (closing == [] and self._at_end())
        return token

    def _must_close(self, closing: list[int] | None, left: int) -> bool:
        """Whether the way that is known must be taken: it still fits, and from where the token leads none might."""
        known = self._closing
        if known is None or len(known) > left + 1:
            return False
        return left + 1 < 2 * len(known) + _PATIENCE if closing is None else len(closing) > left

    def _find(self, matcher: Any, left: int) -> list[int] | None:
        if self._waits > 0 and left > 2 * _PATIENCE:
            self._waits -= 1
            return None
        found = self._closer.find(matcher, self._closing, IN_A_STEP)
        # What is hard to close is hard to close behind the next token too.
        self._pause = min(2 * self._pause + 1, _PATIENCE) if found is None else 0
        self._waits = self._pause
        return found

    def _close(self, token: int) -> int:
        """Take the known closing's next token instead of `token`; end here where there is none."""
        if not self._closing:
            # Where only an end could follow and was barred (`min_tokens`), nothing was cut off.
            self.cut = self.cut or not (self._matcher.is_accepting() and self._at_end())
            self.finished = True
            return self._end
        forced, self._closing = self._closing[0], self._closing[1:]
        self.cut = self.cut or forced != token
        good = self._matcher.consume_token(forced)
        # What the grammar engine cannot follow any more (its fuel is spent) is complete when the closing is.
        self.finished = self._matcher.is_stopped() if good else not self._closing
        return forced

    def _at_end(self) -> bool:
        """Whether a text that is complete can only end; what this computes is the next mask."""
        self._ready = self._matcher.compute_bitmask()
        return _without(self._ready, self._ends) is None


class CompiledGrammar:
    """A grammar ready to be followed; see `engine.constraint.Grammar`."""

    def __init__(self, matcher: Any, closer: Closer, eos: frozenset[int], end: int) -> None:
        self._matcher, self._closer, self._eos, self._end = matcher, closer, eos, end
        self._closing = closer.find(matcher, None, AT_FIRST)

    def start(self, eos: Collection[int]) -> Way:
        """See `Grammar.start`."""
        closing = None if self._closing is None else list(self._closing)
        barred = [end for end in self._closer.ends if end in self._eos and end not in eos]
        return Way(self._matcher.deep_copy(), self._closer, closing, self._closer.ends, self._end, barred)


class GrammarCompiler:
    """Compiles for one model, and keeps what it compiled; made cheaply, since few requests need it.

    Any thread may use it; one grammar is compiled at a time.

    Args:
        tokenizer: a fast Transformers tokenizer.
        vocabulary: how many token ids the model knows; the logits' width.
        eos: ids that end a text.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, eos: frozenset[int]) -> None:
        self._hf, self._vocabulary, self._eos = tokenizer, vocabulary, eos
        # A tokenizer may know more tokens than its model.
        self._end = min((token for token in eos if token < vocabulary), default=NO_TOKEN)
        self._lock = threading.Lock()
        self._made: tuple[Any, Closer] | None = None
        self._kept: OrderedDict[str, CompiledGrammar] = OrderedDict()

    def warm(self) -> None:
        """Do now what the first grammar would have to wait for, where library and tokenizer allow grammars at all."""
        with self._lock, suppress(GatewayError):
            self._made = self._made or self._make()

    def lark(self, text: str, param: str, *, schema: Mapping[str, Any] | None = None) -> CompiledGrammar:
        """Compile a grammar in llguidance's Lark.

        Args:
            text: the grammar.
            param: the request field it comes from, for the error.
            schema: the JSON schema that `param` holds, if it holds one: its bad part is looked for.

        Raises:
            GatewayError: `INVALID_REQUEST` where it is wrong, too long or too complex; `CAPABILITY` where there is no
                library, or the model's tokenizer is of an unknown kind.
        """
        with self._lock:
            if (kept := self._kept.get(text)) is not None:
                self._kept.move_to_end(text)
                return kept
            if len(text) > MAX_SOURCE:
                raise _bad(param, f"it is longer than {MAX_SOURCE} characters")
            self._made = self._made or self._make()
            tokenizer, closer = self._made
            library = llguidance()
            grammar = library.LLMatcher.grammar_from_lark(text)
            matcher = library.LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
            if matcher.is_error():
                at = param if schema is None else where(schema, param)
                raise _bad(at, plain_reason(matcher.get_error()))
            compiled = CompiledGrammar(matcher, closer, self._eos, self._end)
            self._kept[text] = compiled
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return compiled

    def grammar(self, text: str, param: str) -> CompiledGrammar:
        """Compile a client's grammar, Lark or GBNF.  Raises as `lark`."""
        llguidance()
        from llguidance.gbnf_to_lark import any_to_lark

        if len(text) > MAX_SOURCE:
            raise _bad(param, f"it is longer than {MAX_SOURCE} characters")
        try:
            text = any_to_lark(text)
        except (ValueError, IndexError, KeyError, RecursionError) as error:
            raise _bad(param, str(error)) from error
        return self.lark(text, param)

    def _make(self) -> tuple[Any, Closer]:
        library = llguidance()
        tokens = TokenBytes(self._hf).table()
        if tokens is None:
            message = "This model's tokenizer spells its tokens in a way that is not known: it cannot follow a grammar."
            raise GatewayError(Kind.CAPABILITY, message, param="model")
        tokens += [b""] * (self._vocabulary - len(tokens))
        eos = [token for token in sorted(self._eos) if token < len(tokens)]
        if not eos:  # one that no logit belongs to
            eos = [len(tokens)]
            tokens.append(b"")
        vocabulary = _Vocabulary(tokens, eos[0])
        tokenizer = library.LLTokenizer(library.TokenizerWrapper(vocabulary), eos_token=eos)
        vocabulary.longest = tokenizer.greedy_tokenize
        return tokenizer, Closer(tokenizer, tokens, eos)


class _Vocabulary:
    """What llguidance's wrapper asks of a tokenizer.

    It tokenises only what a grammar leaves no choice about, and the longest tokens will do for that: the model's own
    tokenizer belongs to another thread.
    """

    bos_token_id = None

    def __init__(self, tokens: list[bytes], eos: int) -> None:
        self.eos_token_id = eos
        self.tokens = tokens
        self.special_token_ids = [token for token, spelt in enumerate(tokens) if not spelt]
        self.longest: Callable[[str], list[int]] = lambda text: []

    def __call__(self, text: str | bytes) -> list[int]:
        return self.longest(text if isinstance(text, str) else text.decode(errors="ignore"))


def _bad(param: str, reason: str) -> GatewayError:
    return GatewayError(Kind.INVALID_REQUEST, f"{param}: {reason.strip()[:500]}", param=param[:500])


def _without(mask: bytes, tokens: Collection[int]) -> bytes | None:
    """Return a mask less some tokens; None where nothing would be left of it."""
    if not tokens:
        return mask
    changed = bytearray(mask)
    for token in tokens:
        changed[token >> 3] &= ~(1 << (token & 7))
    return bytes(changed) if any(changed) else None


def _only(token: int, size: int) -> bytes:
    mask = bytearray(size)
    mask[token >> 3] = 1 << (token & 7)
    return bytes(mask)

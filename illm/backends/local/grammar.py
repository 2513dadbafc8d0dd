"""Grammars for a local model: what the text of an answer must be, compiled, bounded, and kept.

llguidance does the work.  It is bounded by its own limits, which count states and steps, so no schema can hold the
prompt thread or grow without end; what exceeds them is the client's error.
"""

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

from illm.backends.local.closing import Closer
from illm.backends.local.token_bytes import UnknownSpelling, token_bytes
from illm.errors import GatewayError, Kind

log = logging.getLogger(__name__)

MAX_SOURCE = 1 << 18
"""Characters of a schema, an expression or a grammar."""

_KEPT = 64
_SPACES = {
    "whitespace_flexible": False,
    # One optional space, as most models write: what is unbounded is filled until no token is left.
    "item_separator": ", ?",
    "key_separator": ": ?",
    # `oneOf` whose branches may overlap counts as `anyOf`.
    "coerce_one_of": True,
}
_PATIENCE = 64  # tokens after which a closing is looked for again at the latest, where none was found


class Way:
    """One sequence's way through a grammar; see `engine.constraint.Constraint`."""

    __slots__ = ("_barred", "_closer", "_closing", "_matcher", "_pause", "_waits", "cut", "finished")

    def __init__(self, matcher: Any, closer: Closer, closing: list[int] | None, barred: Collection[int]) -> None:
        self._matcher, self._closer, self._closing, self._barred = matcher, closer, closing, barred
        self._pause = self._waits = 0
        self.finished = self.cut = False

    def mask(self) -> bytes:
        """See `Constraint.mask`."""
        bits: bytes = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            return _only(self._closing[0] if self._closing else 0, len(bits))
        if not self._barred:
            return bits
        changed = bytearray(bits)
        for token in self._barred:
            changed[token >> 3] &= ~(1 << (token & 7))
        return bytes(changed) if any(changed) else bits

    def take(self, token: int, left: int) -> int:
        """See `Constraint.take`."""
        after = self._matcher.deep_copy()
        good = after.consume_token(token)
        closing = self._find(after, left) if good else None
        if (closing is None and self._hurry(left)) or (closing is not None and len(closing) > left) or not good:
            return self._close(token)
        self._matcher, self._closing = after, closing
        self.finished = after.is_stopped()
        return token

    def _hurry(self, left: int) -> bool:
        """Whether a way without a closing must not be taken: one is known, and soon it would not fit any more."""
        return self._closing is not None and 0 < len(self._closing) <= left + 1 < 2 * len(self._closing) + _PATIENCE

    def _find(self, matcher: Any, left: int) -> list[int] | None:
        if self._waits > 0 and left > 2 * _PATIENCE:
            self._waits -= 1
            return None
        found = self._closer.find(matcher, self._closing)
        self._pause = min(2 * self._pause + 1, _PATIENCE) if found is None else 0
        self._waits = self._pause
        return found

    def _close(self, token: int) -> int:
        """Take the known closing's next token instead of `token`."""
        if not self._closing:  # nothing is known: whatever comes, the limit will end it
            self.finished = self.finished or not self._matcher.consume_token(token) or self._matcher.is_stopped()
            self.cut = True
            return token
        forced, self._closing = self._closing[0], self._closing[1:]
        self.cut = self.cut or forced != token
        good = self._matcher.consume_token(forced)
        # What the grammar engine cannot follow any more (its fuel is spent) is complete when the closing is.
        self.finished = self._matcher.is_stopped() if good else not self._closing
        return forced


class CompiledGrammar:
    """A grammar ready to be followed; see `engine.constraint.Grammar`."""

    def __init__(self, matcher: Any, closer: Closer, eos: frozenset[int]) -> None:
        self._matcher, self._closer, self._eos = matcher, closer, eos
        self._closing = closer.find(matcher, None)

    def start(self, eos: Collection[int]) -> Way:
        """See `Grammar.start`."""
        closing = None if self._closing is None else list(self._closing)
        return Way(self._matcher.deep_copy(), self._closer, closing, sorted(self._eos - frozenset(eos)))


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
        self._lock = threading.Lock()
        self._made: tuple[Any, Closer] | None = None
        self._kept: OrderedDict[str, CompiledGrammar] = OrderedDict()

    def json_schema(self, schema: Mapping[str, Any], param: str) -> CompiledGrammar:
        """Compile a JSON schema.

        Args:
            schema: the schema, an object.
            param: where the client wrote it, for the error.

        Raises:
            GatewayError: `INVALID_REQUEST`; `param` names the part that cannot be had, as far as it can be told.
        """
        return self._compiled(schema_grammar(schema, param), param, schema)

    def regex(self, expression: str, param: str) -> CompiledGrammar:
        """Compile a regular expression, which the whole text has to match.  Raises as `json_schema`."""
        return self._compiled(_library().LLMatcher.grammar_from_regex(_bounded(expression, param)), param)

    def choice(self, texts: Collection[str], param: str) -> CompiledGrammar:
        """Compile a choice of texts.  Raises as `json_schema`."""
        if not texts or not all(texts):
            raise _bad(param, "texts to choose from are needed, and none may be empty")
        return self.lark("start: " + " | ".join(map(literal, texts)), param)

    def lark(self, text: str, param: str) -> CompiledGrammar:
        """Compile a grammar in llguidance's Lark, where `%json {...}` is a schema; see `json_rule`, `literal`.

        Raises as `json_schema`.
        """
        return self._compiled(_library().LLMatcher.grammar_from_lark(_bounded(text, param)), param)

    def grammar(self, text: str, param: str) -> CompiledGrammar:
        """Compile a client's grammar, Lark or GBNF.  Raises as `json_schema`."""
        from llguidance.gbnf_to_lark import any_to_lark

        try:
            return self.lark(any_to_lark(_bounded(text, param)), param)
        except GatewayError:
            raise
        except Exception as error:  # of a parser written without regard to hostile text
            raise _bad(param, str(error)) from error

    def special(self, text: str) -> str:
        """Return the Lark for a piece of a chat format: the control token of that name if there is one, else text."""
        known = {added.content: token for token, added in self._hf.added_tokens_decoder.items() if added.special}
        return f"<[{known[text]}]>" if text in known else literal(text)

    def _compiled(self, grammar: str, param: str, schema: Mapping[str, Any] | None = None) -> CompiledGrammar:
        with self._lock:
            if (kept := self._kept.get(grammar)) is not None:
                self._kept.move_to_end(grammar)
                return kept
            if self._made is None:
                self._made = self._make()
            tokenizer, closer = self._made
            matcher = _library().LLMatcher(tokenizer, grammar, log_level=0, limits=_limits())
            if matcher.is_error():
                at = param if schema is None else where(schema, param)
                raise _bad(at, matcher.get_error())
            compiled = CompiledGrammar(matcher, closer, self._eos)
            self._kept[grammar] = compiled
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return compiled

    def _make(self) -> tuple[Any, Closer]:
        library = _library()
        try:
            tokens = token_bytes(self._hf)
        except UnknownSpelling as error:
            message = f"This model's tokenizer cannot follow a grammar: {error}"
            raise GatewayError(Kind.CAPABILITY, message, param="model") from error
        tokens += [b""] * (self._vocabulary - len(tokens))
        eos = sorted(self._eos)
        if not eos:  # one that no logit belongs to
            eos = [len(tokens)]
            tokens.append(b"")
        tokenizer = library.LLTokenizer(library.TokenizerWrapper(_Vocabulary(tokens, eos[0])), eos_token=eos)
        return tokenizer, Closer(tokenizer, tokens, eos[0])


class _Vocabulary:
    """What llguidance's wrapper asks of a tokenizer; it is never asked to tokenise, only to know the tokens."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], eos: int) -> None:
        self.eos_token_id = eos
        self.tokens = tokens
        self.special_token_ids = [token for token, spelt in enumerate(tokens) if not spelt]

    def __call__(self, text: str | bytes) -> list[int]:
        return []


def json_rule(schema: Mapping[str, Any], param: str) -> str:
    """Return a JSON schema as a term of a Lark grammar, with the white space that is allowed everywhere here."""
    options = {"x-guidance": _SPACES | dict(schema.get("x-guidance") or {})}
    return f"%json {_dumped(dict(schema) | options, param)}"


def literal(text: str) -> str:
    """Return a text as a term of a Lark grammar."""
    return json.dumps(text, ensure_ascii=False)


def schema_grammar(schema: Mapping[str, Any], param: str) -> str:
    """Return llguidance's grammar for a schema, not yet compiled.  Raises `GatewayError` where it is too long."""
    grammar: str = _library().LLMatcher.grammar_from_json_schema(_dumped(schema, param), overrides=_SPACES)
    return grammar


_BELOW_ONE = ("items", "additionalProperties", "contains", "propertyNames", "not")
_BELOW_LIST = ("anyOf", "oneOf", "allOf", "prefixItems")
_BELOW_NAMES = ("properties", "$defs", "definitions", "patternProperties")
_LOOKS = 200


def where(schema: Mapping[str, Any], param: str) -> str:
    """Return the path of the smallest part of a bad schema that is bad by itself."""
    library, shared = _library(), {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    looks = 0

    def bad(part: Mapping[str, Any], *, alone: bool = False) -> bool:
        nonlocal looks
        looks += 1
        whole = dict(part) if alone else shared | dict(part)
        grammar = library.LLMatcher.grammar_from_json_schema(json.dumps(whole), overrides=_SPACES)
        return bool(library.LLMatcher.validate_grammar(grammar, limits=_limits()))

    place, path = schema, param
    while looks < _LOOKS:
        for name, part in _parts(place):
            if looks >= _LOOKS:
                break
            if bad(part):
                place, path = part, f"{path}.{name}"
                break
        else:
            break
    return path


def _parts(schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found = [(name, schema.get(name)) for name in _BELOW_ONE]
    found += [(f"{name}[{at}]", part) for name in _BELOW_LIST for at, part in enumerate(_list(schema.get(name)))]
    for name in _BELOW_NAMES:
        below = schema.get(name)
        found += [(f"{name}.{key}", part) for key, part in below.items()] if isinstance(below, Mapping) else []
    return [(name, part) for name, part in found if isinstance(part, Mapping)]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dumped(schema: Mapping[str, Any], param: str) -> str:
    return _bounded(json.dumps(schema), param)


def _bounded(source: str, param: str) -> str:
    if len(source) > MAX_SOURCE:
        raise _bad(param, f"it is longer than {MAX_SOURCE} characters")
    return source


def _bad(param: str, reason: str) -> GatewayError:
    return GatewayError(Kind.INVALID_REQUEST, f"{param}: {reason.strip()[:500]}", param=param[:500])


def _only(token: int, size: int) -> bytes:
    mask = bytearray(size)
    mask[token >> 3] = 1 << (token & 7)
    return bytes(mask)


def _limits() -> Any:
    return _library().LLParserLimits(
        initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, step_max_items=50_000, max_grammar_size=200_000,
        verbose_errors=False,
    )  # fmt: skip


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        message = "Answers of a given form need the package 'llguidance': pip install 'illm[local]'"
        raise GatewayError(Kind.CAPABILITY, message) from error
    return llguidance

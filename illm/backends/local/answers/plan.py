"""How the answers to one request are to be read, and what they have to be."""

from collections.abc import Callable, Set
from dataclasses import dataclass

from illm.backends.local.answers.call_reader import CallReader
from illm.backends.local.answers.layout import Thinks
from illm.backends.local.answers.reader import AnswerReader, call_id
from illm.backends.local.answers.thinking import ThinkingReader


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlan:
    """See the module.

    Args:
        grammar: Lark that the whole answer has to follow, if it has to.
        thinks: the reasoning that may come first.
        calls: makes a parser of calls, where tools were offered.
        names: of those tools.
        keep: special tokens that the parsers have to see as text.
        hidden: their texts, which no client should see.
        one: a single call is enough.
        ending: the finish reason of an answer that called.
        new_id: makes ids of calls.
    """

    grammar: str | None = None
    thinks: Thinks | None = None
    calls: Callable[[Set[str]], CallReader] | None = None
    names: frozenset[str] = frozenset()
    keep: frozenset[int] = frozenset()
    hidden: tuple[str, ...] = ()
    one: bool = False
    ending: str = "tool_calls"
    new_id: Callable[[], str] = call_id

    def reader(self, index: int) -> AnswerReader:
        """Return what reads choice `index`."""
        thinks = self.thinks
        return AnswerReader(
            index,
            thinking=None if thinks is None else ThinkingReader(thinks.tags, opened=thinks.opened),
            calls=None if self.calls is None else self.calls(self.names),
            hidden=self.hidden,
            one=self.one,
            ending=self.ending,
            new_id=self.new_id,
        )

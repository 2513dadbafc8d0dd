"""What has to happen to text on its way to a TGI server and on its way back.

There, a server that sees images scans all of a prompt's text for `![](...)` and fetches what stands in it, from inside
its network.  Back, it leaves a stop string in the text that it ended.
"""

from collections.abc import Iterable
from typing import Any

from illm.core.events import Delta, Logprob
from illm.core.stops import StopCutter

_IMAGE_MARK = "![]("
_BROKEN_MARK = "!\u200b[]("


def neutralised(text: str) -> str:
    """Return text that no server takes for an image: a character that nobody sees breaks the mark."""
    return text.replace(_IMAGE_MARK, _BROKEN_MARK)


def all_neutralised(value: Any) -> Any:
    """Return JSON with every string in it neutralised: templates write whole tools into the prompt."""
    match value:
        case str():
            return neutralised(value)
        case dict():
            return {neutralised(name): all_neutralised(item) for name, item in value.items()}
        case list() | tuple():
            return [all_neutralised(item) for item in value]
        case _:
            return value


class TokenText:
    """One choice's text, token by token, cut at stop strings together with the tokens that made it.

    A token's log-probability goes out with the first character of it that is shown, so that those of a stop string
    never do.

    Args:
        stops: the stop strings.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._cutter = StopCutter(stops)
        self._held: list[tuple[int, Logprob]] = []  # and where in the text each begins
        self._taken = self._shown = 0  # characters

    @property
    def hit(self) -> str | None:
        """The stop string that was met, if one was."""
        return self._cutter.hit

    def feed(self, text: str, logprob: Logprob | None = None) -> Delta:
        """Take one token; return what can be shown now, perhaps no text, but always one token counted."""
        if logprob is not None:
            self._held.append((self._taken, logprob))
        self._taken += len(text)
        return self._delta(self._cutter.feed(text), 1)

    def close(self) -> Delta | None:
        """Return what was held back, if anything."""
        delta = self._delta(self._cutter.close(), 0, everything=self.hit is None)
        return delta if delta.text or delta.logprobs else None

    def _delta(self, text: str, tokens: int, *, everything: bool = False) -> Delta:
        self._shown += len(text)
        ready = len(self._held) if everything else sum(1 for start, _ in self._held if start < self._shown)
        logprobs = tuple(logprob for _, logprob in self._held[:ready])
        del self._held[:ready]
        return Delta(0, text, tokens, logprobs)

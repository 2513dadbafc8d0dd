"""`best_of`: of the continuations of a prompt, those that the model itself found likeliest, a token on average."""

from dataclasses import dataclass, field, replace

from illm.core.events import Delta, Event, Finish, Reasoning, ToolDelta


@dataclass(slots=True)
class _Entry:
    events: list[Event] = field(default_factory=list)
    logprob: float = 0.0
    tokens: int = 0
    done: bool = False

    @property
    def mean(self) -> float:
        return self.logprob / max(self.tokens, 1)


class Contest:
    """Holds back what the continuations say until the best of a prompt are known.

    Args:
        n: how many of them are answered.
        best_of: how many there are.
        logprobs: whether the client is to see the log-probabilities.
    """

    def __init__(self, n: int, best_of: int, *, logprobs: bool) -> None:
        self._n, self._best_of, self._logprobs = n, best_of, logprobs
        self._entries: dict[int, _Entry] = {}

    def feed(self, index: int, logprob: float | None, events: list[Event]) -> list[Event]:
        """Take what came of one continuation; return the answer, once all of its prompt have ended.

        Args:
            index: `p * best_of + i` for the i-th continuation of prompt p.
            logprob: of the token that it got, if it got one.
            events: what there is to say of it.
        """
        entry = self._entries.setdefault(index, _Entry())
        entry.events += events
        if logprob is not None:
            entry.logprob += logprob
            entry.tokens += 1
        entry.done = any(type(event) is Finish for event in events)
        prompt = index // self._best_of
        own = range(prompt * self._best_of, (prompt + 1) * self._best_of)
        if not all(at in self._entries and self._entries[at].done for at in own):
            return []
        ranked = sorted((self._entries.pop(at) for at in own), key=lambda entry: -entry.mean)
        return [
            shown
            for place, entry in enumerate(ranked[: self._n])
            for event in entry.events
            if (shown := self._shown(event, prompt * self._n + place)) is not None
        ]

    def _shown(self, event: Event, index: int) -> Event | None:
        if isinstance(event, Delta) and not self._logprobs:
            return replace(event, index=index, logprobs=()) if event.text else None
        # What a choice says has its index, whatever it is; what has none is no choice's.
        return replace(event, index=index) if isinstance(event, Delta | Finish | Reasoning | ToolDelta) else event

"""Embeddings or relevance on one model: a step is one pass, over rows of whichever calls wait (see `fair_passes`)."""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from illm.backends.local.fair_passes import FairPasses
from illm.backends.local.work import Answered, Batch
from illm.core.events import Event, Failed
from illm.core.requests import Request
from illm.errors import GatewayError

if TYPE_CHECKING:  # numpy comes with the model, and tests of this file need neither
    from illm.backends.local.encoding import Encoder, Outcome, Task


@dataclass(slots=True)
class _Call:
    """One call: what has come of its rows, and how many are still to come."""

    task: "Task"
    outcomes: "list[Outcome | None]"
    missing: int


class EncodingWork:
    """See `Work`.

    Args:
        encoder: the model.
    """

    def __init__(self, encoder: "Encoder") -> None:
        self._encoder = encoder
        self._turns = FairPasses(encoder.batch_tokens)
        self._calls: dict[int, _Call] = {}
        self._unread: deque[int] = deque()
        self._passes = self._inputs = self._tokens = self._padding = 0

    def prepare(self, request: Request) -> "Task | Answered":
        """See `Work.prepare`."""
        task = self._encoder.task(request)
        if isinstance(task, Answered):
            return task
        task.tokenise(self._encoder.tokeniser)
        return task if task.items else Answered(task.finish((), 0))

    def add(self, key: int, prepared: "Task") -> None:
        """See `Work.add`."""
        count = len(prepared.items)
        self._calls[key] = _Call(prepared, [None] * count, count)
        if prepared.ready:
            self._line_up(key)
        else:
            self._unread.append(key)

    def abort(self, key: int) -> None:
        """See `Work.abort`."""
        self._turns.remove(key)
        if self._calls.pop(key, None) is not None and key in self._unread:
            self._unread.remove(key)

    def step(self) -> Batch:
        """See `Work.step`."""
        return [*self._read(), *self._run()]

    @property
    def busy(self) -> bool:
        """See `Work.busy`."""
        return bool(self._calls)

    def describe(self) -> dict[str, Any]:
        """See `Work.describe`."""
        counts = {"passes": self._passes, "inputs": self._inputs, "tokens": self._tokens, "padding": self._padding}
        return {"engine": {"running": len(self._calls)} | counts}

    def _line_up(self, key: int) -> None:
        self._turns.add(key, [row.shape[1] for row in self._calls[key].task.rows])

    def _read(self) -> Batch:
        """Tokenise a piece of one long call; the others that wait for it come first next time."""
        if not self._unread:
            return []
        key = self._unread.popleft()
        task = self._calls[key].task
        try:
            task.tokenise(self._encoder.tokeniser)
        except GatewayError as error:
            del self._calls[key]
            return [(key, (Failed(error),))]
        if task.ready:
            self._line_up(key)
        else:
            self._unread.append(key)
        return []

    def _run(self) -> Batch:
        taken = self._turns.take()
        if not taken:
            return []
        rows = [self._calls[key].task.rows[at] for key, at in taken]
        outcomes = self._encoder.run(rows)
        lengths = [row.shape[1] for row in rows]
        self._passes += 1
        self._inputs += len(rows)
        self._tokens += sum(lengths)
        self._padding += max(lengths) * len(rows) - sum(lengths)
        done: Batch = []
        for (key, at), outcome in zip(taken, outcomes, strict=True):
            call = self._calls[key]
            call.outcomes[at] = outcome.copy()  # a view would keep its neighbours, who are other people's
            call.missing -= 1
            if not call.missing:
                done.append((key, self._finish(key)))
        return done

    def _finish(self, key: int) -> tuple[Event, ...]:
        call = self._calls.pop(key)
        try:
            return call.task.finish([outcome for outcome in call.outcomes if outcome is not None], call.task.tokens)
        except GatewayError as error:
            return (Failed(error),)

"""Embeddings on one model: a step is one pass, and calls take turns, so that a long list holds nobody up."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from illm.backends.local.work import Batch
from illm.core.events import Done, Usage, Vectors
from illm.core.requests import Embed, Request

if TYPE_CHECKING:  # torch comes with the model, and tests of this file need neither
    from illm.backends.local.embedder import Embedder, Prepared


@dataclass(slots=True)
class Embedding:
    """One call's vectors, pass by pass."""

    passes: Iterator[list[tuple[int, bytes]]]
    prepared: "Prepared"
    rows: dict[int, bytes] = field(default_factory=dict)


class EmbeddingWork:
    """See `Work`."""

    def __init__(self, embedder: "Embedder") -> None:
        self._embedder = embedder
        self._calls: dict[int, Embedding] = {}
        self._passes = 0
        self._inputs = 0

    def prepare(self, request: Request) -> "Prepared":
        """See `Work.prepare`."""
        assert isinstance(request, Embed)  # noqa: S101 - the directory has looked at the capability
        return self._embedder.prepare(request.inputs, request.dimensions)

    def add(self, key: int, prepared: "Prepared") -> None:
        """See `Work.add`."""
        self._calls[key] = Embedding(self._embedder.batches(prepared), prepared)

    def abort(self, key: int) -> None:
        """See `Work.abort`."""
        self._calls.pop(key, None)

    def step(self) -> Batch:
        """See `Work.step`."""
        if not self._calls:
            return []
        key = next(iter(self._calls))
        call = self._calls.pop(key)
        call.rows.update(next(call.passes, ()))  # no inputs, no passes
        self._passes += 1
        total = len(call.prepared.inputs)
        if len(call.rows) < total:
            self._calls[key] = call  # at the back of the line
            return []
        self._inputs += total
        vectors = Vectors(tuple(call.rows[index] for index in range(total)))
        return [(key, (vectors, Done(Usage(call.prepared.prompt_tokens))))]

    @property
    def busy(self) -> bool:
        """See `Work.busy`."""
        return bool(self._calls)

    def describe(self) -> dict[str, Any]:
        """See `Work.describe`."""
        return {"engine": {"running": len(self._calls), "passes": self._passes, "inputs": self._inputs}}

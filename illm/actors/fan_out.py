"""Several choices from a backend that makes one at a time: as many calls, seen by their reader as one.

Rules:
* All parts are admitted or none: nothing waits between the first and the last.
* Choice `p * n + i` is the i-th continuation of prompt p, as OpenAI numbers them.
* Choices are introduced in order, 0 first, whichever speaks first: clients index a list by them.  What a later part
  said meanwhile stays in hand, one batch of it; the rest stays with its producer, who feels it.
* One part's failure is everybody's: the others are left at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import anyio

from illm.actors.call import Call
from illm.actors.ref import Ref
from illm.core.events import Done, Event, Failed, Ranking, Raw, Recording, Segment, Tokens, Usage, Vectors
from illm.core.requests import Completion, Generate
from illm.errors import GatewayError, Kind
from illm.loop.wake import Wake

_INT64 = 1 << 64


def enter(ref: Ref, request: Generate) -> "Call | FanOut":
    """Hand a request to an actor, in parts where its backend needs that.  Use as a context manager.

    Raises:
        GatewayError: as `Ref.call`; then no part of it has been left behind.
    """
    parts = split(request) if ref.served.fans_out else [request]
    if len(parts) == 1:
        return ref.call(request)
    calls: list[Call] = []
    try:
        for part in parts:
            calls.append(ref.call(part))  # noqa: PERF401 - those before a refusal must be left
    except BaseException:
        for call in calls:
            call.leave()
        raise
    return FanOut(calls, request.sampling.n)


def split(request: Generate) -> list[Generate]:
    """Return one request a choice, in the order of the choices.

    A seed is counted up, or all of a prompt's choices would be equal; it stays within 64 bits.
    """
    sampling = request.sampling
    singles = [request]
    if isinstance(request, Completion) and len(request.prompts) > 1:
        singles = [replace(request, prompts=(prompt,)) for prompt in request.prompts]
    if sampling.n == 1:
        return singles
    samplings = [replace(sampling, n=1, seed=_counted_up(sampling.seed, at)) for at in range(sampling.n)]
    return [replace(single, sampling=one) for single in singles for one in samplings]


def _counted_up(seed: int | None, by: int) -> int | None:
    return None if seed is None else (seed + by + _INT64 // 2) % _INT64 - _INT64 // 2


@dataclass(slots=True)
class _Part:
    """One call, what it has said that its reader has not yet been given, and how many tokens it took."""

    call: Call
    held: list[Event] = field(default_factory=list)
    usage: Usage | None = None

    @property
    def waited_for(self) -> bool:
        """Whether more is wanted from it now."""
        return self.usage is None and not self.held


class FanOut:
    """Many calls behind the surface of one.  A context manager: leaving the block leaves them all.

    Args:
        calls: in the order of the choices.
        n: choices a prompt.
    """

    def __init__(self, calls: Sequence[Call], n: int) -> None:
        self._parts = [_Part(call) for call in calls]
        self._n = n
        self._introduced = 0
        self.left = False
        self.queued_at = calls[0].queued_at

    @property
    def watched(self) -> bool:
        """See `Call.watched`."""
        return all(part.call.watched for part in self._parts)

    @property
    def reply(self) -> Self:
        """Where the merged answer is read from."""
        return self

    @property
    def taken_at(self) -> float | None:
        """When the first part began; None while all of them wait.  `time.monotonic()` seconds."""
        return min((part.call.taken_at for part in self._parts if part.call.taken_at is not None), default=None)

    def leave(self) -> None:
        """The caller goes: see `Call.leave`."""
        self.left = True
        self._leave_parts()

    async def take(self) -> list[Event]:
        """Wait for events of any choice and return all there are.

        Raises:
            anyio.EndOfStream: a part ended without saying how, or everything has been read.
            anyio.BrokenResourceError: this side has left.
        """
        if all(part.usage is not None for part in self._parts):
            raise anyio.EndOfStream
        while True:
            if self.left:
                raise anyio.BrokenResourceError
            readable = Wake()
            for part in self._parts:
                if part.waited_for:
                    part.call.reply.wake(readable)
            if events := self._gather():
                return events
            await readable.wait()

    def _gather(self) -> list[Event]:
        for at, part in enumerate(self._parts):
            if not part.waited_for:
                continue
            for event in self._taken_from(part):
                match event:
                    case Failed():
                        self._leave_parts()
                        return [event]
                    case Done(usage=usage):
                        part.usage = usage
                    case Raw() | Vectors() | Ranking() | Tokens() | Recording() | Segment():
                        self._leave_parts()
                        message = "The backend answered a part of the request in a form that cannot be merged"
                        return [Failed(GatewayError(Kind.INTERNAL, message))]
                    case _:
                        part.held.append(replace(event, index=at))
        return self._release()

    def _taken_from(self, part: _Part) -> list[Event]:
        try:
            return part.call.reply.take_nowait()
        except anyio.EndOfStream:
            self._leave_parts()
            raise

    def _release(self) -> list[Event]:
        events: list[Event] = []
        for at, part in enumerate(self._parts):
            if at == self._introduced and (part.held or part.usage is not None):
                self._introduced += 1
            if at < self._introduced:
                events += part.held
                part.held = []
        usages = [part.usage for part in self._parts if part.usage is not None]
        if len(usages) == len(self._parts):
            events.append(Done(total(usages, self._n)))
        return events

    def _leave_parts(self) -> None:
        for part in self._parts:
            part.call.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


def total(usages: Sequence[Usage], n: int) -> Usage:
    """Add up the parts' counts: a prompt once, however many choices continue it; what was generated always.

    Args:
        usages: in the order of the choices.
        n: choices a prompt.
    """
    prompts = [usages[at : at + n] for at in range(0, len(usages), n)]
    return replace(
        usages[0],
        # A server may leave cached tokens out of a prompt's count: whichever part counted most counted the prompt.
        prompt_tokens=sum(max(part.prompt_tokens for part in parts) for parts in prompts),
        completion_tokens=sum(part.completion_tokens for part in usages),
        reasoning_tokens=sum(part.reasoning_tokens for part in usages),
        # Later parts find what the first one left behind; only what all found was there before the request.
        cached_tokens=sum(min(part.cached_tokens for part in parts) for parts in prompts),
    )

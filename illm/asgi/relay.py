"""The pump: from an actor's reply, through an encoder, to the client.

Before the first byte every failure still has a status, so it is raised.  After it the failure becomes an error event:
never a clean end.  Where the backend does not keep the deadlines itself (`Call.watched`), one cancel scope a request
carries both.  While the client is watched, errors are values: on a foreign server a task group is open, which would
wrap what is raised.
"""

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Protocol

import anyio

from illm.actors.call import Call
from illm.actors.fan_out import FanOut
from illm.asgi.access_log import Record
from illm.asgi.exchange import ClientGoneError, Exchange
from illm.core.events import Delta, Done, Event, Failed, Raw, Usage
from illm.errors import GatewayError, Kind

_LAST_WORDS = 5.0
"""Seconds that a client may take to read that its stream has failed."""

GRACE = 1.0
"""Seconds that a backend's own deadline has in front of the same one here: its message is the more precise one."""


class Encoder(Protocol):
    """Events in, bytes out; see `illm.dialects.openai`."""

    content_type: bytes

    def feed(self, events: list[Event]) -> bytes:
        """Return what can be sent now; nothing, where the answer is not streamed."""

    def close(self) -> bytes:
        """Return the rest, once `Done` has been fed."""

    def fail(self, error: GatewayError) -> bytes:
        """Return the end of a response that has begun and cannot be finished."""


async def relay(
    exchange: Exchange, call: Call | FanOut, encoder: Encoder, *, stream: bool, first: float, whole: float
) -> None:
    """Answer a request from its call's reply.

    Args:
        exchange: where to write.
        call: entered by the caller, who leaves it.
        encoder: of the client's dialect.
        stream: whether to send what there is, or everything at the end.
        first, whole: seconds that the backend has until the first event, and for everything.

    Raises:
        GatewayError: it failed before the first byte.
        ClientGoneError: nobody is there any more.
    """
    error: Exception | None
    if call.watched and exchange.own_server:
        exchange.tell(call.leave)
        error = await _pump(exchange, call, encoder, stream=stream)
    else:
        error = await _pump_in_time(exchange, call, encoder, stream=stream, first=first, whole=whole)
    if call.left:
        raise ClientGoneError
    if isinstance(error, GatewayError) and exchange.started:
        await _end_badly(exchange, encoder, error)
    elif error is not None:
        raise error
    elif not stream:
        await exchange.respond(encoder.close(), content_type=encoder.content_type)


async def _pump_in_time(
    exchange: Exchange, call: Call | FanOut, encoder: Encoder, *, stream: bool, first: float, whole: float
) -> Exception | None:
    began = anyio.current_time()
    error: Exception | None = None
    async with exchange.watching(call.leave):
        with anyio.CancelScope(deadline=began + first + GRACE) as scope:

            def answering() -> None:
                scope.deadline = began + whole + GRACE

            error = await _pump(exchange, call, encoder, answering, stream=stream)
    return _too_late() if scope.cancelled_caught else error


async def _pump(
    exchange: Exchange,
    call: Call | FanOut,
    encoder: Encoder,
    answering: Callable[[], None] | None = None,
    *,
    stream: bool,
) -> Exception | None:
    """Feed the encoder and send what it makes; return what went wrong.  `answering` is told of the first event."""
    record, take, feed = exchange.record, call.reply.take, encoder.feed
    waiting = True
    try:
        while True:
            events = await take()
            if waiting:
                waiting = False
                _note_first(record, call)
                if answering is not None:
                    answering()
            last = events[-1]
            if type(last) is Failed:
                if exchange.started and len(events) > 1:
                    await exchange.write(feed(events[:-1]))
                return last.error
            data = feed(events)
            if type(last) is Done:
                _note_usage(record, last.usage)
                if stream:
                    if not exchange.started:
                        await exchange.start_stream(encoder.content_type)
                    await exchange.write(data + encoder.close(), more=False)
                return None
            if stream and data:
                if not exchange.started:
                    await exchange.start_stream(encoder.content_type)
                await exchange.write(data)
                if type(last) is not Raw:
                    _note_tokens(record, events)
    except anyio.EndOfStream:
        return GatewayError(Kind.BACKEND_DIED, "The backend died while it answered")
    except (anyio.BrokenResourceError, ClientGoneError):
        call.leave()
        return None
    except Exception as error:
        return error


async def _end_badly(exchange: Exchange, encoder: Encoder, error: GatewayError) -> None:
    """Say in the stream that it failed; where that cannot be said any more, leave it unfinished."""
    exchange.note(error)
    if exchange.torn:
        return
    with anyio.move_on_after(_LAST_WORDS), suppress(ClientGoneError):
        await exchange.write(encoder.fail(error), more=False)


async def collect(call: Call | FanOut, exchange: Exchange, *, first: float) -> list[Event]:
    """Wait for a whole reply, `first` seconds at most, and return its events.  Raises as `relay`."""
    events: list[Event] = []
    error: GatewayError | None = None
    async with exchange.watching(call.leave):
        with anyio.CancelScope(deadline=anyio.current_time() + first + GRACE) as scope:
            error = await _gather(call, events)
    if call.left:
        raise ClientGoneError
    if scope.cancelled_caught:
        error = _too_late()
    if error is not None:
        raise error
    _note_first(exchange.record, call)
    return events


async def _gather(call: Call | FanOut, events: list[Event]) -> GatewayError | None:
    try:
        while not (events and type(events[-1]) is Done):
            events += await call.reply.take()
            if type(events[-1]) is Failed:
                return events[-1].error
    except anyio.EndOfStream:
        return GatewayError(Kind.BACKEND_DIED, "The backend died while it answered")
    except anyio.BrokenResourceError:
        pass
    return None


def _too_late() -> GatewayError:
    return GatewayError(Kind.TIMEOUT, "The backend did not answer in time")


def _note_first(record: Record, call: Call | FanOut) -> None:
    now = monotonic()
    record.ttft = now - record.began
    record.queue = (call.taken_at or now) - call.queued_at


def _note_tokens(record: Record, events: list[Event]) -> None:
    counted = [event.tokens for event in events if type(event) is Delta]
    if counted:  # what is relayed as it came has no counts, and not known is not zero
        record.completion_tokens = (record.completion_tokens or 0) + sum(counted)


def _note_usage(record: Record, usage: Usage) -> None:
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt or completion:  # else a relayed stream whose client did not ask: not known is not zero
        record.prompt_tokens, record.completion_tokens = prompt, completion

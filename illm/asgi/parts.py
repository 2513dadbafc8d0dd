"""One request of many inputs, asked of a backend in as many parts as it takes at once."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from illm.actors.directory import Directory
from illm.asgi.exchange import Exchange
from illm.asgi.relay import collect
from illm.config import Config
from illm.core.events import Done, Event
from illm.core.requests import Embed, Rerank
from illm.dialects import openai


class Answered(NamedTuple):
    """What came back.

    Args:
        model: the name that the answer carries.
        events: of all parts, in their order.
        prompt_tokens: of all parts together.
    """

    model: str
    events: list[Event]
    prompt_tokens: int


async def ask(
    exchange: Exchange, directory: Directory, config: Config, request: Embed | Rerank, fields: frozenset[str]
) -> Answered:
    """Find who answers a request, and ask.

    Args:
        exchange: the request as it came; its record is kept.
        directory: who can be asked.
        config: how long the first event may take.
        request: what is asked.
        fields: what the endpoint carries.

    Raises:
        GatewayError: nobody can answer, a field cannot be honoured, or a part failed.
    """
    exchange.record.asks(request)
    ref = directory.find(request)
    exchange.record.backend, exchange.record.model = ref.served.framework, ref.answers_as(request)
    refusal = openai.unsupported(request.body, ref.served.supported, fields=fields)
    if refusal is not None:
        raise refusal
    events: list[Event] = []
    # One part after the other, as together they are one request.
    for part in _parts(request, ref.served.most_inputs()):
        with ref.call(part) as call:
            events += await collect(call, exchange, first=config.first_token_timeout)
    prompt_tokens = sum(event.usage.prompt_tokens for event in events if isinstance(event, Done))
    exchange.record.prompt_tokens = prompt_tokens
    return Answered(ref.answers_as(request), events, prompt_tokens)


def _parts(request: Embed | Rerank, most: int | None) -> Iterator[Embed | Rerank]:
    """Cut a request to what a backend takes at once: what it says of one input is that input's own affair."""
    field = "inputs" if isinstance(request, Embed) else "documents"
    inputs = getattr(request, field)
    if most is None or len(inputs) <= most:
        yield request
        return
    for start in range(0, len(inputs), most):
        yield replace(request, **{field: inputs[start : start + most]})

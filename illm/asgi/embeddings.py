"""`/v1/embeddings`."""

from collections.abc import Iterator
from dataclasses import replace

import anyio.lowlevel

from illm.actors.directory import Directory
from illm.asgi.exchange import Exchange
from illm.asgi.json_request import read_json
from illm.asgi.relay import collect
from illm.config import Config
from illm.core.events import Done, Event, Raw, Vectors
from illm.core.requests import Embed
from illm.dialects import openai
from illm.errors import GatewayError, Kind


async def embed(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Turn texts into vectors."""
    request = openai.parse_embeddings(await read_json(exchange))
    exchange.record.asks(request)
    ref = directory.find(request)
    exchange.record.backend, exchange.record.model = ref.served.framework, ref.answers_as(request)
    refusal = openai.unsupported(request.body, ref.served.supported, fields=openai.EMBEDDING_FIELDS)
    if refusal is not None:
        raise refusal
    events: list[Event] = []
    for part in _parts(request, ref.served.most_inputs()):
        with ref.call(part) as call:
            events += await collect(call, exchange, first=config.first_token_timeout)
    prompt_tokens = sum(event.usage.prompt_tokens for event in events if isinstance(event, Done))
    exchange.record.prompt_tokens = prompt_tokens
    relayed = b"".join(event.data for event in events if isinstance(event, Raw))
    if relayed:
        await exchange.respond(relayed)
        return
    rows = [row for event in events if isinstance(event, Vectors) for row in event.rows]
    if len(rows) != len(request.inputs):
        raise GatewayError(Kind.UPSTREAM, "The backend returned another number of embeddings than there were inputs")
    body = bytearray()
    model = ref.answers_as(request)
    for piece in openai.embeddings_body(request, model=model, rows=rows, prompt_tokens=prompt_tokens):
        body += piece
        await anyio.lowlevel.checkpoint()  # a large answer must not hold the loop while it is written out
    await exchange.respond(bytes(body))


def _parts(request: Embed, most: int | None) -> Iterator[Embed]:
    """Cut a request to what a backend takes at once; one part after the other, as together they are one request."""
    if most is None or len(request.inputs) <= most:
        yield request
        return
    for start in range(0, len(request.inputs), most):
        yield replace(request, inputs=request.inputs[start : start + most])

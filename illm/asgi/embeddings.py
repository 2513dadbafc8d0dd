"""`/v1/embeddings`."""

import anyio.lowlevel

from illm.actors.directory import Directory
from illm.asgi.exchange import Exchange
from illm.asgi.json_request import read_json
from illm.asgi.relay import collect
from illm.config import Config
from illm.core.events import Done, Raw, Vectors
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
    with ref.call(request) as call:
        events = await collect(call, exchange, first=config.first_token_timeout)
    usage = next(event.usage for event in events if isinstance(event, Done))
    exchange.record.prompt_tokens = usage.prompt_tokens
    relayed = b"".join(event.data for event in events if isinstance(event, Raw))
    if relayed:
        await exchange.respond(relayed)
        return
    rows = [row for event in events if isinstance(event, Vectors) for row in event.rows]
    if len(rows) != len(request.inputs):
        raise GatewayError(Kind.UPSTREAM, "The backend returned another number of embeddings than there were inputs")
    body = bytearray()
    model = ref.answers_as(request)
    for piece in openai.embeddings_body(request, model=model, rows=rows, prompt_tokens=usage.prompt_tokens):
        body += piece
        await anyio.lowlevel.checkpoint()  # a large answer must not hold the loop while it is written out
    await exchange.respond(bytes(body))

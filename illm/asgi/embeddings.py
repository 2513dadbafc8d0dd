"""`/v1/embeddings`."""

import anyio.lowlevel

from illm.actors.directory import Directory
from illm.asgi.exchange import Exchange
from illm.asgi.json_request import read_json
from illm.asgi.parts import ask
from illm.config import Config
from illm.core.events import Raw, Vectors
from illm.dialects import openai
from illm.errors import GatewayError, Kind


async def embed(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Turn texts into vectors."""
    request = openai.parse_embeddings(await read_json(exchange))
    model, events, prompt_tokens = await ask(exchange, directory, config, request, openai.EMBEDDING_FIELDS)
    relayed = b"".join(event.data for event in events if isinstance(event, Raw))
    if relayed:
        await exchange.respond(relayed)
        return
    rows = [row for event in events if isinstance(event, Vectors) for row in event.rows]
    if len(rows) != len(request.inputs):
        raise GatewayError(Kind.UPSTREAM, "The backend returned another number of embeddings than there were inputs")
    body = bytearray()
    for piece in openai.embeddings_body(request, model=model, rows=rows, prompt_tokens=prompt_tokens):
        body += piece
        await anyio.lowlevel.checkpoint()  # a large answer must not hold the loop while it is written out
    await exchange.respond(bytes(body))

"""`/tokenize` and `/detokenize`."""

from illm.actors.directory import Directory
from illm.asgi.exchange import Exchange
from illm.asgi.json_request import read_json
from illm.asgi.relay import collect
from illm.config import Config
from illm.core.events import Delta, Event, Tokens
from illm.core.requests import Detokenize, Tokenize
from illm.dialects import openai, vllm
from illm.errors import GatewayError, Kind


async def tokenize(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Turn a prompt or a conversation into token ids."""
    request = vllm.parse_tokenize(await read_json(exchange))
    events = await _ask(exchange, directory, config, request, openai.TOKENIZE_FIELDS)
    tokens = next((event for event in events if isinstance(event, Tokens)), None)
    if tokens is None:
        raise GatewayError(Kind.UPSTREAM, "The backend returned no tokens")
    await exchange.respond(vllm.tokenized_body(tokens))


async def detokenize(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Turn token ids into text."""
    request = vllm.parse_detokenize(await read_json(exchange))
    events = await _ask(exchange, directory, config, request, openai.DETOKENIZE_FIELDS)
    await exchange.respond(vllm.detokenized_body("".join(event.text for event in events if isinstance(event, Delta))))


async def _ask(
    exchange: Exchange, directory: Directory, config: Config, request: Tokenize | Detokenize, fields: frozenset[str]
) -> list[Event]:
    exchange.record.asks(request)
    ref = directory.find(request)
    exchange.record.backend, exchange.record.model = ref.served.framework, ref.answers_as(request)
    refusal = openai.unsupported(request.body, ref.served.supported, fields=fields)
    if refusal is not None:
        raise refusal
    with ref.call(request) as call:
        return await collect(call, exchange, first=config.first_token_timeout)

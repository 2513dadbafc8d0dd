"""`/v1/rerank`, `/rerank`."""

from illm.actors.directory import Directory
from illm.asgi.exchange import Exchange
from illm.asgi.json_request import read_json
from illm.asgi.names import new_name
from illm.asgi.parts import ask
from illm.config import Config
from illm.core.events import Ranking
from illm.dialects import openai, vllm
from illm.errors import GatewayError, Kind


async def rerank(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Put documents in the order of their relevance to a query."""
    request = vllm.parse_rerank(await read_json(exchange))
    model, events, prompt_tokens = await ask(exchange, directory, config, request, openai.RERANK_FIELDS)
    scores = [score for event in events if isinstance(event, Ranking) for score in event.scores]
    if len(scores) != len(request.documents):
        raise GatewayError(Kind.UPSTREAM, "The backend returned another number of scores than there were documents")
    await exchange.respond(
        vllm.rerank_body(request, id=f"score-{new_name()}", model=model, scores=scores, prompt_tokens=prompt_tokens)
    )

"""`/v1/rerank`, `/rerank`."""

from collections.abc import Iterator
from dataclasses import replace

from illm.actors.directory import Directory
from illm.asgi.exchange import Exchange
from illm.asgi.json_request import read_json
from illm.asgi.names import new_name
from illm.asgi.relay import collect
from illm.config import Config
from illm.core.events import Done, Event, Ranking
from illm.core.requests import Rerank
from illm.dialects import openai, vllm
from illm.errors import GatewayError, Kind


async def rerank(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Put documents in the order of their relevance to a query."""
    request = vllm.parse_rerank(await read_json(exchange))
    exchange.record.asks(request)
    ref = directory.find(request)
    model = ref.answers_as(request)
    exchange.record.backend, exchange.record.model = ref.served.framework, model
    refusal = openai.unsupported(request.body, ref.served.supported, fields=openai.RERANK_FIELDS)
    if refusal is not None:
        raise refusal
    events: list[Event] = []
    for part in _parts(request, ref.served.most_inputs()):
        with ref.call(part) as call:
            events += await collect(call, exchange, first=config.first_token_timeout)
    scores = [score for event in events if isinstance(event, Ranking) for score in event.scores]
    if len(scores) != len(request.documents):
        raise GatewayError(Kind.UPSTREAM, "The backend returned another number of scores than there were documents")
    prompt_tokens = sum(event.usage.prompt_tokens for event in events if isinstance(event, Done))
    exchange.record.prompt_tokens = prompt_tokens
    await exchange.respond(
        vllm.rerank_body(request, id=f"score-{new_name()}", model=model, scores=scores, prompt_tokens=prompt_tokens)
    )


def _parts(request: Rerank, most: int | None) -> Iterator[Rerank]:
    """Cut a request to what a backend takes at once: a document's score is its own affair."""
    if most is None or len(request.documents) <= most:
        yield request
        return
    for start in range(0, len(request.documents), most):
        yield replace(request, documents=request.documents[start : start + most])

"""TGI's own routes, for its clients: `/generate`, `/generate_stream`, `/`, `/info`, `/health`.

The backend behind them is the framework `tgi`: the local engine where the operator said so, else a TGI server.
Mistakes of the client's get a status of their own in streams too, where TGI itself says 200 and regrets it later.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

from illm import __version__
from illm.actors import fan_out
from illm.actors.directory import Directory
from illm.actors.ref import Ref, State
from illm.asgi.exchange import Exchange
from illm.asgi.json_request import read_json
from illm.asgi.relay import collect, relay
from illm.config import Config
from illm.core.requests import Completion, Sampling
from illm.dialects import openai, tgi
from illm.dialects.tgi import Generation
from illm.errors import GatewayError, Kind

logger = logging.getLogger("illm.asgi")

FRAMEWORK = "tgi"

_PROBE = Completion(prompts=("",), sampling=Sampling(), framework=FRAMEWORK)

Handler = Callable[[Exchange, Directory, Config], Awaitable[None]]


def _in_its_words(handler: Handler) -> Handler:
    """Have a handler's errors answered in TGI's shape."""

    async def answer(exchange: Exchange, directory: Directory, config: Config) -> None:
        try:
            await handler(exchange, directory, config)
        except GatewayError as error:
            if error.__cause__ is not None:
                logger.error("%s: %s", exchange.record.request_id, error, exc_info=error.__cause__)
            exchange.record.error = error.kind.name.lower()
            headers = openai.error_headers(error)
            await exchange.respond(tgi.error_body(error), status=tgi.error_status(error), headers=headers)

    return answer


@_in_its_words
async def generate(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer with one object."""
    generation = await _read(exchange, config, stream=False)
    await _answer_whole(exchange, _choose(exchange, directory, generation), config, generation)


@_in_its_words
async def generate_stream(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer token by token."""
    generation = await _read(exchange, config, stream=True)
    await _answer_stream(exchange, _choose(exchange, directory, generation), config, generation)


@_in_its_words
async def compatible(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer as either of them, as the body says; one object comes in an array here."""
    generation = await _read(exchange, config, stream=None)
    ref = _choose(exchange, directory, generation)
    if generation.completion.stream:
        await _answer_stream(exchange, ref, config, generation)
    else:
        await _answer_whole(exchange, ref, config, generation, around=(b"[", b"]"))


@_in_its_words
async def info(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer with the model and its limits."""
    ref = directory.find(_PROBE)
    context = ref.served.details().get("context")
    body = tgi.info_body(
        model=ref.models[0],
        context=context if isinstance(context, int) else None,
        concurrent=config.max_queue,
        version=__version__,
    )
    await exchange.respond(body)


@_in_its_words
async def health(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer 200 and nothing more while a request would be taken."""
    ref = directory.find(_PROBE)
    if ref.state is not State.READY:
        raise ref.problem or GatewayError(Kind.NOT_READY, "unhealthy")
    await exchange.respond(b"")


async def _read(exchange: Exchange, config: Config, *, stream: bool | None) -> Generation:
    generation = tgi.parse_generation(await read_json(exchange), stream=stream, framework=FRAMEWORK)
    return tgi.with_default_limit(generation, config.max_tokens)


def _choose(exchange: Exchange, directory: Directory, generation: Generation) -> Ref:
    request = generation.completion
    ref = directory.find(request)
    exchange.record.backend, exchange.record.model = ref.served.framework, ref.answers_as(request)
    refusal = openai.unsupported(request.body, ref.served.supported)
    if refusal is not None:
        message = f"`{refusal.param}` is not supported by the backend behind this server"
        raise GatewayError(refusal.kind, message, param=refusal.param)
    return ref


async def _answer_stream(exchange: Exchange, ref: Ref, config: Config, generation: Generation) -> None:
    first, whole = config.first_token_timeout, config.request_timeout
    with fan_out.enter(ref, generation.completion) as call:
        await relay(exchange, call, tgi.GenerationStream(generation), stream=True, first=first, whole=whole)


async def _answer_whole(
    exchange: Exchange,
    ref: Ref,
    config: Config,
    generation: Generation,
    *,
    around: Sequence[bytes] = (b"", b""),
) -> None:
    with fan_out.enter(ref, generation.completion) as call:
        events = await collect(call, exchange, first=config.request_timeout)
    body, counts = tgi.generated_body(generation, events)
    exchange.record.prompt_tokens, exchange.record.completion_tokens = counts
    await exchange.respond(around[0] + body + around[1], headers=counts.headers)

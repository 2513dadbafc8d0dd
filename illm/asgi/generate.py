"""`/v1/chat/completions` and `/v1/completions`."""

from dataclasses import replace
from time import time

import anyio

from illm.actors import fan_out
from illm.actors.directory import Directory
from illm.actors.ref import Ref, State
from illm.asgi.exchange import ClientGoneError, Exchange
from illm.asgi.json_request import read_json, read_raw
from illm.asgi.names import new_name
from illm.asgi.relay import Encoder, relay
from illm.config import Config
from illm.core.capabilities import Capability
from illm.core.requests import Chat, Generate
from illm.dialects import openai
from illm.errors import GatewayError, Kind
from illm.media.images import has_images, settle_images


async def chat(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer a conversation with one assistant turn."""
    request = openai.read_chat(await read_raw(exchange))
    sampling = request.sampling.over(config.sampling)
    if sampling is not request.sampling:
        request = replace(request, sampling=sampling)
    ref, model = _choose(exchange, directory, request, openai.CHAT_FIELDS)
    if not request.plain and has_images(request):
        request = await _settle(exchange, ref, config, request)
    encoder = openai.chat_encoder(request, id=f"chatcmpl-{new_name()}", created=int(time()), model=model)
    await _answer(exchange, ref, config, request, encoder)


async def complete(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Continue raw prompts."""
    request = openai.parse_completion(await read_json(exchange))
    sampling = request.sampling.over(config.sampling)
    if sampling.max_tokens is None:
        sampling = replace(sampling, max_tokens=openai.DEFAULT_MAX_TOKENS)
    request = replace(request, sampling=sampling)
    ref, model = _choose(exchange, directory, request, openai.COMPLETION_FIELDS)
    encoder = openai.completion_encoder(request, id=f"cmpl-{new_name()}", created=int(time()), model=model)
    await _answer(exchange, ref, config, request, encoder)


def _choose(exchange: Exchange, directory: Directory, request: Generate, fields: frozenset[str]) -> tuple[Ref, str]:
    """Return who answers, and the name that the answer carries for its model."""
    record = exchange.record
    record.asks(request)
    ref = directory.find(request)
    served, model = ref.served, ref.answers_as(request)
    record.backend, record.model = served.framework, model
    refusal = openai.unsupported(request.body, served.supported, fields=fields)
    if refusal is not None:
        raise refusal
    return ref, model


async def _settle(exchange: Exchange, ref: Ref, config: Config, request: Chat) -> Chat:
    """Fetch and check images, once it is known that the backend takes any."""
    if Capability.IMAGES not in ref.served.capabilities:  # beside sound, which the backend was chosen for
        raise GatewayError(Kind.CAPABILITY, f"The model {ref.model!r} does not support images", param="model")
    if ref.state in (State.DOWN, State.FAILED):  # one that only starts may be ready by then
        ref.check()
    outcome: Chat | GatewayError | None = None
    with anyio.CancelScope() as scope:
        async with exchange.watching(scope.cancel):
            try:
                outcome = await settle_images(request, config.images)
            except GatewayError as error:  # as a value, since a task group would wrap it
                outcome = error
    if outcome is None:
        raise ClientGoneError
    if isinstance(outcome, GatewayError):
        raise outcome
    return outcome


async def _answer(exchange: Exchange, ref: Ref, config: Config, request: Generate, encoder: Encoder) -> None:
    first, whole = config.first_token_timeout, config.request_timeout
    with fan_out.enter(ref, request) as call:
        await relay(exchange, call, encoder, stream=request.stream, first=first, whole=whole)

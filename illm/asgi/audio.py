"""`/v1/audio/transcriptions` and `/v1/audio/translations`: parsed in full; answered by whichever backend offers it."""

from collections.abc import Sequence

from illm.actors.directory import Directory
from illm.actors.ref import Ref, State
from illm.asgi.exchange import Exchange
from illm.asgi.json_request import media_type, read_json, refuse_encodings
from illm.asgi.relay import relay
from illm.config import Config
from illm.core.capabilities import Capability
from illm.core.requests import Transcribe
from illm.dialects import openai
from illm.errors import GatewayError, Kind


async def transcribe(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Turn speech into text."""
    await _answer(exchange, directory, config, translate=False)


async def translate(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Turn speech into English text."""
    await _answer(exchange, directory, config, translate=True)


async def _answer(exchange: Exchange, directory: Directory, config: Config, *, translate: bool) -> None:
    request = await _read(exchange, config.max_audio_bytes, translate=translate)
    exchange.record.asks(request)
    ref = _find(directory, request)
    exchange.record.backend, exchange.record.model = ref.served.framework, ref.answers_as(request)
    stream = bool(request.fields.get("stream"))
    first, whole = config.first_token_timeout, config.request_timeout
    with ref.call(request) as call:
        encoder = openai.transcription_encoder(request)
        await relay(exchange, call, encoder, stream=stream, first=first, whole=whole)


def _find(directory: Directory, request: Transcribe) -> Ref:
    try:
        return directory.find(request)
    except GatewayError as error:
        # Where nothing transcribes at all, that is the answer, not that one model of many is unknown.
        if error.kind is not Kind.MODEL_NOT_FOUND or _transcribes(directory.list(request.framework)):
            raise
        raise GatewayError(Kind.CAPABILITY, "No backend here supports audio transcriptions") from None


def _transcribes(refs: Sequence[Ref]) -> bool:
    # A server that is only guessed at counts once it has shown itself.
    return any(
        Capability.AUDIO in ref.served.capabilities and (not ref.served.optional or ref.state is State.READY)
        for ref in refs
    )


async def _read(exchange: Exchange, limit: int, *, translate: bool) -> Transcribe:
    if media_type(exchange) != b"multipart/form-data":
        return openai.parse_transcription_json(await read_json(exchange), limit=limit, translate=translate)
    refuse_encodings(exchange)
    form = openai.FormParser(exchange.headers[b"content-type"], max_file=limit)
    while (chunk := await exchange.read()) is not None:
        form.feed(chunk)
    fields, file = form.close()
    return openai.parse_transcription_form(fields, file, limit=limit, translate=translate)

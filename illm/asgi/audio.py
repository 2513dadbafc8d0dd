"""`/v1/audio/transcriptions`: parsed in full; answered by whichever backend offers it."""

from illm.actors.directory import Directory
from illm.asgi.exchange import Exchange
from illm.asgi.json_request import media_type, read_json, refuse_encodings
from illm.asgi.relay import collect
from illm.config import Config
from illm.core.requests import Transcribe
from illm.dialects import openai
from illm.errors import GatewayError, Kind


async def transcribe(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Turn speech into text."""
    request = await _read(exchange)
    ref = directory.find(request)
    exchange.record.backend, exchange.record.model = ref.served.framework, ref.answers_as(request)
    with ref.call(request) as call:
        await collect(call, exchange, first=config.first_token_timeout)
    raise GatewayError(Kind.CAPABILITY, "No backend of this version answers transcriptions")


async def _read(exchange: Exchange) -> Transcribe:
    if media_type(exchange) != b"multipart/form-data":
        return openai.parse_transcription_json(await read_json(exchange))
    refuse_encodings(exchange)
    form = openai.FormParser(exchange.headers[b"content-type"])
    while (chunk := await exchange.read()) is not None:
        form.feed(chunk)
    fields, file = form.close()
    return openai.parse_transcription_form(fields, file)

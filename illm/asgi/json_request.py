"""Read a JSON body: media type, encoding, size, syntax."""

from typing import Any

from illm.asgi.exchange import Exchange
from illm.dialects import openai
from illm.errors import GatewayError, Kind


async def read_raw(exchange: Exchange) -> bytes:
    """Return the body of a request whose headers say that it is JSON.

    Raises:
        GatewayError: not JSON by its headers, or too large.
        ClientGoneError: the client left while sending it.
    """
    headers = exchange.headers
    if headers.get(b"content-type") != b"application/json":
        media = media_type(exchange)
        if media and media != b"application/json" and not media.endswith(b"+json"):
            raise GatewayError(Kind.MEDIA_TYPE, "The body must be JSON: send `Content-Type: application/json`")
    if b"content-encoding" in headers:
        refuse_encodings(exchange)
    return await exchange.body()


async def read_json(exchange: Exchange) -> dict[str, Any]:
    """Return the decoded body.  Raises as `read_raw`, and `GatewayError` where it is malformed."""
    return openai.decode_body(await read_raw(exchange))


def media_type(exchange: Exchange) -> bytes:
    """Return the content type without its parameters, in lower case; empty where none was sent."""
    return exchange.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def refuse_encodings(exchange: Exchange) -> None:
    """Raise for a compressed body: inflating what strangers send needs limits that nobody has asked for yet."""
    if exchange.headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
        raise GatewayError(Kind.MEDIA_TYPE, "Compressed request bodies are not accepted: send it uncompressed")

"""TGI: chats through its Messages API, completions through its native endpoints, models from `/info`.

Its protocol is frozen: the project is in maintenance.  Embeddings it has none; its sibling answers those, see `tei`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from illm.backends.remote.tgi_body import Body, BodyDecoder
from illm.backends.remote.tgi_chat import chat_body
from illm.backends.remote.tgi_chat_answer import ChatBody, ChatStream
from illm.backends.remote.tgi_generate import generate_body, generate_path
from illm.backends.remote.tgi_generated import GeneratedBody, GeneratedStream
from illm.backends.remote.upstream import Decoder, Dialect, Outgoing
from illm.config import Config
from illm.core.capabilities import Capability
from illm.core.requests import Chat, Completion, Request
from illm.errors import GatewayError, Kind

CAPABILITIES = frozenset(Capability) - {Capability.AUDIO, Capability.EMBEDDINGS, Capability.RERANK, Capability.TOKENS}

SUPPORTED = frozenset(
    {
        "add_generation_prompt",
        "continue_final_message",
        "echo",
        "frequency_penalty",
        "grammar",
        "logprobs",
        "parallel_tool_calls",
        "response_format",
        "tool_choice",
        "tool_prompt",
        "tools",
        "top_logprobs",
        "truncate",
        "typical_p",
        "watermark",
    }
)

JSON_BODY = ((b"content-type", b"application/json"),)


def dialect(config: Config) -> Dialect:
    """Return how a TGI server is spoken to."""
    return TGI()


class TGI:
    """See `illm.backends.remote.upstream.Dialect`."""

    framework = "tgi"
    capabilities = CAPABILITIES
    supported = SUPPORTED
    fans_out = True
    probe_path = "/health"
    models_path = "/info"

    def outgoing(self, request: Request) -> Outgoing:
        """Translate a request.  Raises as `Dialect.outgoing`."""
        match request:
            case Chat():
                return post("/v1/chat/completions", chat_body(request))
            case Completion():
                return post(generate_path(request), generate_body(request))
            case _:
                raise GatewayError(Kind.CAPABILITY, f"The backend 'tgi' does not support {request.needs}")

    def decoder(self, request: Request) -> Decoder:
        """Return what will read the answer to `request`."""
        return BodyDecoder("tgi", request, lambda headers: _body(request, headers))

    def models(self, body: bytes) -> Sequence[str]:
        """Read `/info`."""
        return info_model(body)


def post(path: str, body: Mapping[str, Any]) -> Outgoing:
    """Return a request with a JSON body.  Raises `GatewayError` for text that JSON cannot carry."""
    try:
        return Outgoing("POST", path, JSON_BODY, orjson.dumps(body))
    except orjson.JSONEncodeError as error:  # a lone surrogate
        raise GatewayError(Kind.INVALID_REQUEST, f"The request holds text that cannot be sent: {error}") from None


def info_model(body: bytes) -> Sequence[str]:
    """Read the one model out of an answer of `/info`, TGI's or TEI's."""
    try:
        info = orjson.loads(body)
        name = info.get("served_model_name") or info["model_id"]
    except (orjson.JSONDecodeError, AttributeError, KeyError):
        return ()
    return (name,) if isinstance(name, str) and name else ()


def _body(request: Request, headers: Mapping[bytes, bytes]) -> Body:
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    # A proxy's error, or an answer in one piece, may stand where a stream was asked for.
    streamed = isinstance(request, Chat | Completion) and request.stream and kind in (b"", b"text/event-stream")
    match request:
        case Chat():
            return ChatStream(request) if streamed else ChatBody(request)
        case Completion():
            return GeneratedStream(request) if streamed else GeneratedBody(request, headers)
        case _:
            raise TypeError(f"tgi is never asked for {request.needs}")

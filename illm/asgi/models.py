"""`/models`, `/v1/models` and `/v1/models/{id}`."""

from collections.abc import Sequence
from urllib.parse import parse_qs

from illm.actors.directory import Directory
from illm.actors.ref import Ref
from illm.asgi.exchange import Exchange
from illm.config import Config
from illm.dialects import openai
from illm.errors import GatewayError, Kind


async def list_models(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer with every model that is served, of one framework or of all."""
    refs = _refs(exchange, directory)
    rows = [(model, ref.served.framework) for ref in refs for model in ref.models]
    await exchange.respond(openai.models_body(rows, created=directory.created))


async def show_model(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer with one model; its id may contain slashes, encoded or not."""
    wanted = exchange.path.partition("/models/")[2]
    for ref in _refs(exchange, directory):
        if wanted in ref.models:
            await exchange.respond(openai.model_body(wanted, ref.served.framework, created=directory.created))
            return
    raise GatewayError(Kind.MODEL_NOT_FOUND, f"The model {wanted!r} is not served here", param="model")


def _refs(exchange: Exchange, directory: Directory) -> Sequence[Ref]:
    """Return whose models are shown.

    A name that stands for the models of a server which nobody mentioned, and which may not be there, is shown only to
    who asks for its framework.
    """
    framework = _framework(exchange)
    return [
        ref
        for ref in directory.list(framework)
        if framework is not None or not (ref.placeholder and ref.served.optional)
    ]


def _framework(exchange: Exchange) -> str | None:
    text: str = exchange.scope.get("query_string", b"").decode("latin-1")
    asked = parse_qs(text).get("framework")
    return asked[-1] if asked else None

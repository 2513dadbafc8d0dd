"""`/models`, `/v1/models` and `/v1/models/{id}`."""

from urllib.parse import parse_qs

from illm.actors.directory import Directory
from illm.asgi.exchange import Exchange
from illm.config import Config
from illm.dialects import openai
from illm.errors import GatewayError, Kind


async def list_models(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer with every model that is served, of one framework or of all."""
    refs = directory.list(_framework(exchange))
    await exchange.respond(openai.models_body([(model, ref.served.framework) for ref in refs for model in ref.models]))


async def show_model(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer with one model; its id may contain slashes, encoded or not."""
    wanted = exchange.path.partition("/models/")[2]
    for ref in directory.list(_framework(exchange)):
        if wanted in ref.models:
            await exchange.respond(openai.model_body(wanted, ref.served.framework))
            return
    raise GatewayError(Kind.MODEL_NOT_FOUND, f"The model {wanted!r} is not served here", param="model")


def _framework(exchange: Exchange) -> str | None:
    text: str = exchange.scope.get("query_string", b"").decode("latin-1")
    asked = parse_qs(text).get("framework")
    return asked[-1] if asked else None

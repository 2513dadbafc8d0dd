"""The one table of paths, and how a request finds its row."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from illm.actors.directory import Directory
from illm.asgi import audio, embeddings, generate, health, models, rerank, tgi, tokens
from illm.asgi.exchange import Exchange
from illm.config import Config
from illm.errors import GatewayError, Kind

Handler = Callable[[Exchange, Directory, Config], Awaitable[None]]


class Route(NamedTuple):
    """One row: `path` is exact, or a prefix where it ends in a slash and is more; `public` ones need no key."""

    path: str
    methods: Mapping[str, Handler]
    public: bool = False


ROUTES = (
    Route("/v1/chat/completions", {"POST": generate.chat}),
    Route("/v1/completions", {"POST": generate.complete}),
    Route("/v1/embeddings", {"POST": embeddings.embed}),
    Route("/v1/rerank", {"POST": rerank.rerank}),
    Route("/rerank", {"POST": rerank.rerank}),
    Route("/tokenize", {"POST": tokens.tokenize}),
    Route("/detokenize", {"POST": tokens.detokenize}),
    Route("/v1/audio/transcriptions", {"POST": audio.transcribe}),
    Route("/v1/audio/translations", {"POST": audio.translate}),
    Route("/v1/models", {"GET": models.list_models}),
    Route("/models", {"GET": models.list_models}),
    Route("/v1/models/", {"GET": models.show_model}),
    Route("/models/", {"GET": models.show_model}),
    Route("/healthz", {"GET": health.health}, public=True),
    Route("/generate", {"POST": tgi.generate}),
    Route("/generate_stream", {"POST": tgi.generate_stream}),
    Route("/", {"POST": tgi.compatible}),
    Route("/info", {"GET": tgi.info}),
    Route("/health", {"GET": tgi.health}),
)

_PREFIXES = tuple(route for route in ROUTES if route.path.endswith("/") and route.path != "/")
_EXACT = {route.path: route for route in ROUTES if route not in _PREFIXES}


class MethodNotAllowedError(GatewayError):
    """The path is there, the method is not; `allow` is what is."""

    def __init__(self, method: str, route: Route) -> None:
        super().__init__(Kind.METHOD_NOT_ALLOWED, f"{method} is not allowed on {route.path}")
        self.allow = ", ".join(sorted(allowed(route)))


def find_route(path: str) -> Route | None:
    """Return the row for a path, if there is one."""
    return _EXACT.get(path) or next((row for row in _PREFIXES if path.startswith(row.path) and path != row.path), None)


def find_handler(route: Route | None, method: str) -> Handler:
    """Return what answers `method` on a row; HEAD is a GET whose body the server leaves out.

    Raises:
        GatewayError: no such path, or not with this method.
    """
    if route is None:
        raise GatewayError(Kind.NOT_FOUND, "There is no such path; see /v1/models and the documentation")
    handler = route.methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        raise MethodNotAllowedError(method, route)
    return handler


def allowed(route: Route) -> set[str]:
    """Return the methods of a row."""
    return {*route.methods, *(("HEAD",) if "GET" in route.methods else ())}

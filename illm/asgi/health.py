"""`/healthz`: one word, and the state of everything behind it."""

from collections.abc import Sequence
from typing import Any

import orjson

from illm.actors.directory import Directory, capabilities
from illm.actors.ref import Ref, State
from illm.asgi.exchange import Exchange
from illm.config import Config

HEALTHY = ("ok", "degraded")
# What a provider is, when its actors differ: the first of these that any of them is in.
_WORST_FIRST = (
    State.FAILED,
    State.DOWN,
    State.RESTARTING,
    State.STARTING,
    State.DRAINING,
    State.READY,
    State.STOPPED,
    State.IDLE,
)


async def health(exchange: Exchange, directory: Directory, config: Config) -> None:
    """Answer 200 while requests can be answered, 503 while loading or draining."""
    status = directory.status
    providers = [
        _provider(framework, directory.list(framework)) for framework in (*directory.backends, *directory.aliases)
    ]
    body = orjson.dumps({"status": status, "providers": providers})
    await exchange.respond(body, status=200 if status in HEALTHY else 503, headers=[(b"cache-control", b"no-store")])


def _provider(framework: str, refs: Sequence[Ref]) -> dict[str, Any]:
    states = {ref.state for ref in refs}
    return {
        "framework": framework,
        "state": next((state for state in _WORST_FIRST if state in states), State.IDLE),
        "capabilities": capabilities(refs),
        "models": [_model(ref) for ref in refs],
    }


def _model(ref: Ref) -> dict[str, Any]:
    described = {
        "id": ref.model,
        "state": ref.state,
        "capabilities": capabilities([ref]),
        "waiting": ref.inbox.waiting,
        "active": len(ref.inbox.active),
        "restarts": ref.restarts,
        **ref.served.details(),
    }
    if ref.problem is not None:
        described["problem"] = ref.problem.message
    return described

"""One call of the application, and what became of it."""

import logging
from enum import Enum, auto

from illm.http11 import Refusal, Refused
from illm.server.exchange import Exchange
from illm.server.faults import only_disconnects
from illm.server.scope import Ends, http_scope
from illm.server.service import Service

logger = logging.getLogger("illm.server")


class Outcome(Enum):
    """What an application left behind."""

    COMPLETE = auto()
    """A whole response."""
    UNFINISHED = auto()
    """A part of one: it must not look like a whole one."""
    NOTHING = auto()
    """Nobody has been answered yet."""


async def call_application(exchange: Exchange, ends: Ends, service: Service) -> Outcome | Refused:
    """Run one request; log what its application did wrong, unless the client's leaving explains it.

    Returns:
        What it left, or why the request was not given to it.
    """
    head, encoder = exchange.head, exchange.encoder
    told = False
    try:
        scope = http_scope(head, ends, service.state, exchange.register, service.root_path)
        await service.app(scope, exchange.receive, exchange.send)
    except Refusal as refusal:
        return Refused(refusal.status, refusal.reason)
    except Exception as exc:
        told = True
        if not (exchange.gone and only_disconnects(exc)):
            logger.exception("the application failed on %s %s", head.method, head.target.decode())
    finally:
        exchange.close()
    if encoder.complete:
        return Outcome.COMPLETE
    if not told and not exchange.gone:
        how = "left its response to %s unfinished" if encoder.head_sent else "did not answer %s"
        logger.error(f"the application {how}", head.target.decode())
    return Outcome.UNFINISHED if encoder.head_sent else Outcome.NOTHING

"""What the connections of a server have in common."""

from dataclasses import dataclass, field
from enum import Enum, auto

from anyio.abc import TaskGroup

from illm.http11 import MessageLimits
from illm.http11.engine import EngineFactory
from illm.server.limits import Limits
from illm.server.scope import Application


@dataclass(slots=True, eq=False)
class Service:
    """What all connections of a server share; the server's watchdog keeps `now`."""

    app: Application
    limits: Limits
    engine: EngineFactory | None
    root_path: str
    state: dict[str, object]
    tasks: TaskGroup
    now: float
    draining: bool = False
    message: MessageLimits = field(init=False)

    def __post_init__(self) -> None:
        self.message = self.limits.message


class Phase(Enum):
    """What a connection waits for; it decides what its reading deadline means."""

    IDLE = auto()
    HEAD = auto()
    REQUEST = auto()
    UNREAD = auto()
    CLOSING = auto()

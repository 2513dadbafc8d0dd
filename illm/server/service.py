"""What the connections of a server have in common."""

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from anyio.abc import ByteStream, SocketAttribute, TaskGroup

from illm.server.limits import Limits
from illm.server.scope import Application

_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True, eq=False)
class Service:
    """What all connections of a server share; the server's watchdog keeps `now`."""

    app: Application
    limits: Limits
    root_path: str
    state: dict[str, object]
    tasks: TaskGroup
    now: float
    draining: bool = False


class Phase(Enum):
    """What a connection's reader waits for; it decides what its deadline means."""

    IDLE = auto()
    HEAD = auto()
    REQUEST = auto()
    UNREAD = auto()
    CLOSING = auto()


def reset_on_close(stream: ByteStream) -> None:
    """Make the next close a reset, so that the client cannot take half a response for a whole one."""
    raw = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610  # not Django's
    if raw is not None:
        # ValueError: uvloop's word for a socket that is closed already.
        with suppress(OSError, ValueError, NotImplementedError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

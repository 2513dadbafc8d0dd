"""Which of several servers gets a request: the less busy of two random ones.

Two random choices spread almost as evenly as a global minimum, without sending every gateway's next request to the
same server.
"""

import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar


class Load(Protocol):
    """What choosing looks at."""

    @property
    def available(self) -> bool:
        """Whether it is up and could take a request now."""

    @property
    def busy(self) -> int:
        """How many requests it works on."""


L = TypeVar("L", bound=Load)


def pick(
    servers: Sequence[L],
    avoid: L | None = None,
    *,
    sample: Callable[[Sequence[L], int], Sequence[L]] = random.sample,
) -> L | None:
    """Choose a server.

    Args:
        servers: the replicas.
        avoid: the one that has just failed this request.
        sample: draws without replacement.

    Returns:
        None where no server could take a request now.
    """
    if len(servers) == 1:
        only = servers[0]
        return only if only is not avoid and only.available else None
    able = [server for server in servers if server is not avoid and server.available]
    if len(able) > 2:
        able = list(sample(able, 2))
    return min(able, key=lambda server: server.busy, default=None)

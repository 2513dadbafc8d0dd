"""Models that nobody asks for let go of their memory: after a time of rest, and where another needs it."""

from collections.abc import Callable, Iterable

import anyio

from illm.actors.ref import Ref, State
from illm.errors import GatewayError, Kind

_LOOKS = 4
"""How often an actor is looked at within the time that it may rest."""

_LONGEST_PAUSE = 60.0


async def unload_idle(refs: Iterable[Ref], unload: Callable[[Ref, str], None], keep_alive: float) -> None:
    """Unload what has been idle for so long, until cancelled.

    Args:
        refs: every actor there is, at each look.
        unload: lets one go; given the reason for the log.
        keep_alive: in seconds.
    """
    resting: dict[Ref, tuple[float, float]] = {}
    while True:
        await anyio.sleep(min(keep_alive / _LOOKS, _LONGEST_PAUSE))
        now = anyio.current_time()
        before, resting = resting, {}
        for ref in refs:
            if may_go(ref):
                last, since = before.get(ref, (ref.used_at, now))
                resting[ref] = (ref.used_at, since if last == ref.used_at else now)
        for ref, (_, since) in resting.items():
            if now - since >= keep_alive:
                unload(ref, f"nobody asked for it within {keep_alive:g} s")


def may_go(ref: Ref) -> bool:
    """Whether an actor holds a model that it can load again, and nobody waits for it."""
    return ref.served.unloads and ref.state is State.READY and not ref.busy


def to_go(ref: Ref, loaded: Iterable[Ref], budget: int) -> list[Ref]:
    """Decide which models have to go before another may be loaded: as few as will do, the longest unused first.

    Args:
        ref: the other.
        loaded: those that hold memory, or are about to.
        budget: bytes for all of them together.

    Raises:
        GatewayError: it does not fit, ever (`MODEL_LOAD_FAILED`) or while the others are busy (`OVERLOADED`).
    """
    need = ref.served.memory()
    if need > budget:
        raise GatewayError(
            Kind.MODEL_LOAD_FAILED,
            f"The model {ref.model!r} needs about {shown(need)}, and all models together may take {shown(budget)}",
        )
    sizes = {other: other.served.memory() for other in loaded}
    idle = sorted((other for other in sizes if may_go(other)), key=lambda other: other.used_at)
    going: list[Ref] = []
    while sum(sizes.values()) + need > budget:
        if not idle:
            raise GatewayError(
                Kind.OVERLOADED, f"There is no room for the model {ref.model!r} while others are busy; try again later"
            )
        going.append(idle.pop(0))
        del sizes[going[-1]]
    return going


def shown(size: int) -> str:
    """Return bytes as people read them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"

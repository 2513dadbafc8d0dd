"""Keep one actor alive: restart after a crash, with backoff, and stop trying for a while when that does not help.

Intensity and period, as in OTP: more than `intensity` crashes within `period` seconds and the actor is `failed`.  A
failed actor refuses at once, and half-opens after the period.  Request < backend < gateway: nothing that happens here
reaches another backend.
"""

import logging
from collections import deque
from dataclasses import dataclass

import anyio

from illm.actors.call import unraised
from illm.actors.ref import Ref, State
from illm.errors import GatewayError, Kind

logger = logging.getLogger("illm.supervisor")


@dataclass(frozen=True, slots=True)
class Policy:
    """Restart policy; `period`, `backoff` and `ceiling` in seconds."""

    intensity: int = 3
    period: float = 60.0
    backoff: float = 0.5
    ceiling: float = 30.0


async def supervise(ref: Ref, policy: Policy = Policy()) -> None:
    """Run the actor of `ref` until cancelled.

    Returns when the actor ended by itself, or, where nobody named it, a period after it failed.
    """
    crashes: deque[float] = deque()
    try:
        while ref.state is not State.STOPPED:
            ref.state = State.RESTARTING if crashes else State.STARTING
            await _run_once(ref, crashes, policy)
            if ref.state is State.FAILED:
                ref.inbox.refuse(ref.problem or GatewayError(Kind.BACKEND_DIED, "The backend has failed"))
                await anyio.sleep(policy.period)
                crashes.clear()
                if not ref.served.named:
                    return
            elif ref.state is State.RESTARTING:
                await anyio.sleep(min(policy.ceiling, policy.backoff * 2 ** (len(crashes) - 1)))
    finally:
        ref.state = State.STOPPED
        ref.inbox.refuse(GatewayError(Kind.SHUTTING_DOWN, f"The model {ref.model!r} is being unloaded"))


async def _run_once(ref: Ref, crashes: deque[float], policy: Policy) -> None:
    def ready() -> None:
        ref.state, ref.problem = State.READY, None

    try:
        await ref.served.make_actor().run(ref.inbox, ready)
        ref.state = State.STOPPED  # a clean end is not a crash
    except* GatewayError as group:
        # Not the raised one itself: its traceback would hold what had been loaded so far.
        ref.state, ref.problem = State.FAILED, unraised(_first(group))
        logger.error("%s/%s cannot run: %s", ref.served.framework, ref.model, ref.problem)
    except* Exception as group:
        ref.restarts += 1
        ref.state = State.FAILED if _too_many(crashes, policy) else State.RESTARTING
        ref.problem = GatewayError(Kind.BACKEND_DIED, f"The backend of {ref.model!r} crashed")
        logger.error("%s/%s crashed", ref.served.framework, ref.model, exc_info=group)
    finally:
        ref.inbox.abandon()


def _too_many(crashes: deque[float], policy: Policy) -> bool:
    """Note a crash; say whether it is one more than `intensity` within the period."""
    now = anyio.current_time()
    while crashes and now - crashes[0] >= policy.period:
        crashes.popleft()  # else one crash a week would be answered with the longest backoff
    crashes.append(now)
    return len(crashes) > policy.intensity


def _first(group: BaseExceptionGroup[GatewayError]) -> GatewayError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")

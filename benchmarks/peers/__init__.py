"""The systems under test: nothing at all, ILLM, its peers, and the engines that its own is compared with."""

from collections.abc import Callable

from benchmarks.environments import Environment
from benchmarks.peers import direct, engines, envoy, illm, litellm, models, nginx, sglang_router, smg
from benchmarks.systems import System

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        direct.SYSTEM,
        illm.FASTEST,
        illm.H11,
        illm.TRIO,
        illm.TWO_WORKERS,
        nginx.SYSTEM,
        envoy.SYSTEM,
        litellm.SYSTEM,
        sglang_router.SYSTEM,
        smg.SYSTEM,
        *engines.ENGINES,
    )
}

ENVIRONMENTS: tuple[Environment, ...] = (
    illm.FAST,
    illm.PLAIN,
    envoy.ENVIRONMENT,
    litellm.ENVIRONMENT,
    sglang_router.ENVIRONMENT,
    smg.ENVIRONMENT,
    models.ENVIRONMENT,
    engines.SERVE,
    engines.VLLM,
    engines.LLAMACPP,
)


def install(say: Callable[[str], None]) -> None:
    """Make every environment that is not there yet, and look for what the operating system has to bring.

    Args:
        say: told what is done, before it is done.

    Raises:
        RuntimeError: something could not be installed; the message says what and why.
    """
    nginx.program()
    for environment in ENVIRONMENTS:
        environment.install(say)

"""From the configuration to a remote backend: which servers, spoken to in which dialect."""

from collections.abc import Callable
from importlib import import_module

from illm.actors.backend import Backend, Unconfigured
from illm.backends.remote.actor import Upstream
from illm.backends.remote.address import parse_address
from illm.backends.remote.backend import Remote
from illm.backends.remote.deadlines import Timeouts
from illm.backends.remote.upstream import Dialect
from illm.config import Config

MISSING = {"tgi": "TGI base_url is not configured"}


def plan_remote(framework: str, *siblings: str) -> Callable[[Config], Backend]:
    """Return what plans one framework.

    Args:
        framework: its name: of its options, and of the module here that has its `dialect(config)`.
        siblings: servers of another kind that answer what its own do not offer.
    """

    def plan(config: Config) -> Backend:
        kinds = [kind for kind in (framework, *siblings) if getattr(config, f"{kind}_base_url")]
        missing = MISSING.get(framework, "Remote base_url is not configured")
        if not kinds:
            return Unconfigured(framework, missing)
        upstreams = [made for kind in kinds if (made := _upstream(kind, framework, config)) is not None]
        if not upstreams:
            return Unconfigured(framework, f"This version cannot talk to {framework}")
        return Remote(
            framework,
            upstreams,
            mailbox=config.max_queue,
            optional=framework != config.framework and _unsaid(framework, config),
            missing=missing if framework not in kinds else None,
        )

    return plan


def _upstream(kind: str, framework: str, config: Config) -> Upstream | None:
    module = f"illm.backends.remote.{kind}"
    try:
        # Imported only for those who use it, so that no dialect costs the others anything.
        dialect: Dialect = import_module(module).dialect(config)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return None
    named = config.framework == framework == kind and config.says("model")
    return Upstream(
        name=kind,
        dialect=dialect,
        addresses=[parse_address(url) for url in getattr(config, f"{kind}_base_url")],
        key=getattr(config, f"{kind}_api_key"),
        ca_file=config.upstream_ca_file,
        timeouts=Timeouts(
            connect=config.connect_timeout,
            first_byte=config.first_token_timeout,
            idle=config.idle_timeout,
            total=config.request_timeout,
        ),
        connections=config.upstream_connections,
        model=config.model if named else None,
    )


def _unsaid(framework: str, config: Config) -> bool:
    """Whether the address is only our guess at where such a server listens."""
    return not config.says(f"{framework}_base_url")

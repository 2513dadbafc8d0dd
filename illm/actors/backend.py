"""What a framework offers the gateway.  Other packages add one through the entry-point group `illm.backends`."""

from collections.abc import Sequence
from typing import Protocol

from illm.actors.ref import Served
from illm.core.capabilities import Capability
from illm.errors import GatewayError, Kind


class Backend(Protocol):
    """One framework, as configured: knows its models, and makes the actors that serve them.

    What it says of a name stays true while no actor comes or goes and none lists other models: it is remembered.
    """

    framework: str

    def named(self) -> Sequence[Served]:
        """Return what the operator asked for, the default model first; empty where nothing is configured."""

    def on_demand(self, model: str, need: Capability) -> Served:
        """Return how to serve a model that only a request named.

        Must not wait and must not touch the network: what takes time happens in the actor.

        Raises:
            GatewayError: `MODEL_NOT_FOUND`, `NOT_CONFIGURED`, ...
        """

    def default(self, need: Capability) -> str | None:
        """Return the model for a request that names none, or None where there is no obvious one."""


class Unconfigured:
    """A framework that exists but that nobody pointed at a server.

    Args:
        framework: its name.
        message: what every request for it is told.
    """

    def __init__(self, framework: str, message: str) -> None:
        self.framework = framework
        self.message = message

    def named(self) -> Sequence[Served]:
        """Nothing."""
        return ()

    def on_demand(self, model: str, need: Capability) -> Served:
        """Raise the configured refusal."""
        raise GatewayError(Kind.NOT_CONFIGURED, self.message)

    def default(self, need: Capability) -> str | None:
        """Any name will do: the refusal says what is missing."""
        return ""

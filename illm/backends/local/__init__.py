"""Models in this process.  Torch and Transformers are imported below this package only, and only when a model loads."""

from illm.actors.backend import Backend
from illm.config import Config


def plan(config: Config) -> Backend:
    """Return the framework `transformers` as configured."""
    from illm.backends.local.backend import Local

    return Local(config)

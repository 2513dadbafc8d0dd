"""From a configuration to running parts: the one place that knows every part."""

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points

from illm.actors.backend import Backend, Unconfigured
from illm.actors.directory import Directory
from illm.backends.local import plan as plan_local
from illm.backends.remote.plan import plan_remote
from illm.config import FRAMEWORKS, Config

logger = logging.getLogger("illm.build")

ENTRY_POINTS = "illm.backends"

_ONE_PROCESS = "The local engine does not run in a gateway of several worker processes"

Plan = Callable[[Config], Backend]
"""How a backend joins: called once a directory, quick, without I/O."""


PLANS: Mapping[str, Plan] = {
    "transformers": plan_local,
    "vllm": plan_remote("vllm"),
    "sglang": plan_remote("sglang"),
    "tgi": plan_remote("tgi", "tei"),
    "ollama": plan_remote("ollama"),
}


def build_directory(config: Config) -> Directory:
    """Make every backend, ours and those of other packages, and the directory over them."""
    # The same actors under a second name, so that no model is loaded twice.
    aliases = {"tgi": "transformers"} if config.tgi_local else {}
    if config.tgi_local and config.tgi_base_url:
        logger.warning("tgi is answered by the local engine: --tgi-local counts for more than a base URL")
    plans = dict(PLANS)
    if config.workers > 1:
        plans["transformers"] = lambda _: Unconfigured("transformers", _ONE_PROCESS)
    backends = [plans[framework](config) for framework in FRAMEWORKS if framework not in aliases]
    backends += [_foreign(entry, config) for entry in entry_points(group=ENTRY_POINTS)]
    return Directory(
        backends,
        default=config.framework,
        max_loaded=config.max_loaded_models,
        aliases=aliases,
        keep_alive=config.keep_alive,
        memory_budget=config.memory_budget,
    )


def _foreign(entry: EntryPoint, config: Config) -> Backend:
    """Another package's mistake costs its own backend, not the gateway."""
    try:
        plan: Plan = entry.load()
        backend = plan(config)
        framework, _ = backend.framework, tuple(backend.named())
    except Exception:
        logger.exception("the backend %s (%s) cannot be used", entry.name, entry.value)
        return Unconfigured(entry.name, f"The backend {entry.name!r} could not be loaded")
    if framework in PLANS:
        logger.warning("%s (%s) takes the place of our backend %s", entry.name, entry.value, framework)
    else:
        logger.info("backend %s comes from the entry point %s", framework, entry.name)
    return backend

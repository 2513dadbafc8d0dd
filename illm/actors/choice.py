"""Which model of a backend answers a request, decided on names and capabilities alone."""

from collections.abc import Mapping

from illm.actors.backend import Backend
from illm.actors.ref import Served
from illm.core.capabilities import Capability
from illm.errors import GatewayError, Kind


def choose(
    backend: Backend, known: Mapping[str, Served], model: str | None, need: Capability, *, strict: bool = True
) -> Served:
    """Decide which model of one backend answers.

    Args:
        backend: the framework.
        known: what it serves already, by model.
        model: the name in the request, if any.
        need: the capability the request stands on.
        strict: whether the named model itself must have it; else the backend's default for `need` steps in
            (an embeddings request that names the chat model).

    Raises:
        GatewayError: `MODEL_NOT_FOUND`, `CAPABILITY`, or the backend's own refusal.
    """
    if model is not None:
        served = known.get(model) or backend.on_demand(model, need)
        if need in served.capabilities:
            return served
        if (stand_in := served.stand_ins.get(need)) is not None:
            return known.get(stand_in) or backend.on_demand(stand_in, need)
        if strict:
            raise _incapable(backend.framework, model, need)
    fallback = backend.default(need)
    if fallback is None and model is None and need in (Capability.CHAT, Capability.COMPLETIONS):
        raise GatewayError(
            Kind.MODEL_NOT_FOUND,
            f"No model of backend {backend.framework!r} was named at start: name one in `model`",
            param="model",
        )
    if fallback is None:
        raise _incapable(backend.framework, model, need)
    served = known.get(fallback) or backend.on_demand(fallback, need)
    if need not in served.capabilities:
        raise _incapable(backend.framework, fallback, need)
    return served


def _incapable(framework: str, model: str | None, need: Capability) -> GatewayError:
    who = f"The model {model!r} of backend {framework!r}" if model else f"The backend {framework!r}"
    return GatewayError(Kind.CAPABILITY, f"{who} does not support {need}", param="model" if model else None)

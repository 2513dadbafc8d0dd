"""A framework whose servers are somewhere else, as the directory sees it.

One `Ref` serves every model of its servers, as the connections are theirs, not a model's; which models those are is
for the servers to say.
"""

from collections.abc import Sequence
from functools import partial

from illm.actors.ref import Served
from illm.backends.remote.actor import Board, RemoteActor, Upstream
from illm.core.capabilities import Capability
from illm.errors import GatewayError, Kind


class Remote:
    """See `illm.actors.backend.Backend`.

    Args:
        framework: its name.
        upstreams: what answers for it, the main one first (TGI's embeddings come from a server of another kind).
        mailbox: how many calls may wait.
        optional: nobody said that there is such a server; that there is none is no fault.
        missing: what a request is told that only an upstream nobody configured could answer.
    """

    def __init__(
        self,
        framework: str,
        upstreams: Sequence[Upstream],
        *,
        mailbox: int = 1024,
        optional: bool = False,
        missing: str | None = None,
    ) -> None:
        self.framework = framework
        self._missing = missing
        self._boards = [Board(upstream) for upstream in upstreams]
        self._served = [
            Served(
                framework=framework,
                model=upstream.name,
                capabilities=upstream.dialect.capabilities,
                make_actor=partial(RemoteActor, upstream, board),
                mailbox=mailbox,
                supported=upstream.dialect.supported,
                fans_out=upstream.dialect.fans_out,
                details=board.describe,
                lists=partial(_models, board),
                quick_start=True,
                optional=optional,
                most_inputs=partial(getattr, upstream.dialect, "most_inputs", None),
            )
            for upstream, board in zip(upstreams, self._boards, strict=True)
        ]
        self._strict = [getattr(upstream.dialect, "validates_models", False) for upstream in upstreams]

    def named(self) -> Sequence[Served]:
        """See `Backend.named`."""
        return self._served

    def on_demand(self, model: str, need: Capability) -> Served:
        """Any name: the server knows its models better than our list of them, which may be some seconds old."""
        for served, board, strict in zip(self._served, self._boards, self._strict, strict=True):
            if need in served.capabilities:
                if strict and board.models and model not in board.models:
                    raise GatewayError(
                        Kind.MODEL_NOT_FOUND,
                        "The requested model does not exist here; /v1/models lists what is served",
                        param="model",
                    )
                return served
        if self._missing is not None:
            raise GatewayError(Kind.NOT_CONFIGURED, self._missing)
        return self._served[0]

    def default(self, need: Capability) -> str | None:
        """See `Backend.default`."""
        able = (served.model for served in self._served if need in served.capabilities)
        # Of what nobody configured the refusal says more than that there is no such model.
        return next(able, self._served[0].model if self._missing is None else "")


def _models(board: Board) -> Sequence[str]:
    return board.models

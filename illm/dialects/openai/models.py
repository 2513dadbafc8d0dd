"""`GET /v1/models` and `GET /v1/models/{id}`: the answers."""

from collections.abc import Iterable

import orjson


def models_body(models: Iterable[tuple[str, str]], *, created: int) -> bytes:
    """Encode the list of models, in the order given.

    Args:
        models: pairs of the id to put into a request and of the framework that serves it.
        created: seconds since 1970; OpenAI's clients insist on a number.
    """
    return orjson.dumps({"object": "list", "data": [_model(name, owner, created) for name, owner in models]})


def model_body(name: str, owner: str, *, created: int) -> bytes:
    """Encode one model; the arguments are those of a row of `models_body`."""
    return orjson.dumps(_model(name, owner, created))


def _model(name: str, owner: str, created: int) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner}

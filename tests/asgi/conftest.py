"""The application over the scripted backend."""

import pytest

from asgi.scripted import Stage, directory
from illm.asgi.app import Gateway
from illm.config import Config


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def make_app(stage):
    """Return a function that makes an application, given what its configuration says."""

    def make(**said) -> Gateway:
        return Gateway(Config(**said), lambda: directory(stage))

    return make


@pytest.fixture(params=["own", "foreign"])
def way(request) -> str:
    """How the application learns that a client has left: by our own server's callback, or by `receive`."""
    return request.param

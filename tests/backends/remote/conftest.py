"""The strict vLLM and SGLang, and the gateway in front of one of them."""

import pytest

from backends.remote.openai_server import running_server


@pytest.fixture(params=["vllm", "sglang"])
def kind(request):
    """Which of them."""
    return request.param


@pytest.fixture
def server(kind):
    """It."""
    with running_server(kind) as server:
        yield server


@pytest.fixture
async def client(server):
    """The official client of a gateway in front of it."""
    from backends.remote.openai_gateway import gateway  # which skips where the official client is missing

    async with gateway(server) as client:
        yield client

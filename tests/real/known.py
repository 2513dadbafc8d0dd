"""What the tests know of the servers they are given."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from illm.config import environment_name
from real.asked import PICTURE, QUESTION

OLLAMA = "http://127.0.0.1:11434"
SERVER = os.environ.get("REAL_SERVER")
"""The server that a launcher of ours started; None where somebody else did."""
KIND = os.environ.get("REAL_KIND")
"""And what it was started for: `text` or `embeddings`."""

REFUSED = {
    "text": ("embeddings", "images", "transcriptions"),
    "embeddings": ("chat", "completions", "transcriptions"),
}
"""What the servers that we start do not do."""
BLIND = {
    ("sglang", "chat"): (400, "invalid_request_error"),
    ("sglang", "completions"): (502, "RemoteEndpointError"),
    ("sglang", "transcriptions"): (502, "RemoteEndpointError"),
}
"""Where a server does not look at what its model can do but tries: status and type of what becomes of that."""
WISHFUL = frozenset({"llamacpp"})
"""Those that take `required` for a wish where the template alone describes the tools."""


def configured(framework: str) -> str:
    """Return the address of a framework's server, or skip and say why."""
    variable = environment_name(f"{framework}_base_url")
    address = os.environ.get(variable)
    if address:
        return address
    if framework == "ollama":
        try:
            httpx.get(f"{OLLAMA}/api/version", timeout=2).raise_for_status()
        except httpx.HTTPError as error:
            pytest.skip(f"{variable} is not set and no Ollama answers at {OLLAMA} ({type(error).__name__})")
        return OLLAMA
    pytest.skip(f"{variable} is not set")


def address(framework: str) -> str:
    """Return where the server itself can be asked: the first replica, without the API's prefix."""
    return configured(framework).split(",")[0].rstrip("/").removesuffix("/v1")


def key(framework: str) -> str | None:
    """Return the bearer key of a framework's server, if it has one."""
    return os.environ.get(environment_name(f"{framework}_api_key"))


def asked_directly(framework: str) -> httpx.Client:
    """Return a client of the server itself, with no ILLM in between."""
    bearer = key(framework)
    headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
    return httpx.Client(base_url=address(framework), headers=headers, timeout=300, trust_env=False)


@contextmanager
def offered() -> Iterator[None]:
    """Skip if the server says that it does not do this; one that we started ourselves has no such excuse."""
    try:
        yield
    except openai.APIStatusError as error:
        if SERVER is not None or error.status_code not in (400, 422):
            raise
        pytest.skip(f"not offered: {error}")


def least(client: openai.OpenAI, model: str) -> Mapping[str, Callable[[], Any]]:
    """Return, by name, the least that can be asked of each thing that a server may do."""
    return {
        "chat": lambda: client.chat.completions.create(model=model, messages=QUESTION, max_tokens=1),
        "completions": lambda: client.completions.create(model=model, prompt="One", max_tokens=1),
        "embeddings": lambda: client.embeddings.create(model=model, input="One", encoding_format="float"),
        "images": lambda: client.chat.completions.create(model=model, messages=PICTURE, max_tokens=1),
        "transcriptions": lambda: client.audio.transcriptions.create(model=model, file=("a.wav", b"RIFF")),
    }

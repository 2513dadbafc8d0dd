"""What every test shares: both event loops."""

import weakref
from collections.abc import Iterator

import pytest

from illm.actors.inbox import Inbox
from illm.errors import GatewayError, Kind


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each test marked `anyio` on both loops."""
    return str(request.param)


@pytest.fixture
def stray_mailboxes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close, after the test, the mailboxes it made by hand: where a directory makes them, closing them is its work."""
    made: list[weakref.ref[Inbox]] = []
    initialise = Inbox.__init__

    def remember(self: Inbox, limit: int) -> None:
        made.append(weakref.ref(self))
        initialise(self, limit)

    monkeypatch.setattr(Inbox, "__init__", remember)
    yield
    for inbox in filter(None, (reference() for reference in made)):
        inbox.close(GatewayError(Kind.SHUTTING_DOWN, "the test is over"))

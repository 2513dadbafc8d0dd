"""A chat whose images are addresses in; the same chat whose images are checked data URLs out.

Both readings of the request change: its parsed messages and its body, which some backends relay.  Neither the chat nor
its body is touched: a new one comes out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from illm.core.requests import Chat, Image
from illm.errors import GatewayError, Kind
from illm.media.data_urls import is_remote, is_written, read_value, value_size, write_data_url
from illm.media.policy import ImagePolicy
from illm.media.refusals import placed, refused

AT_ONCE = 8
"""Fetches of one request at once."""

LARGE = 1 << 18
"""Bytes from which an image is decoded and looked at beside the loop."""

Place = tuple[int, int]
"""Which message, and which part of it."""


class Fetches(Protocol):
    """See `illm.media.fetch.Fetcher`."""

    async def fetch(self, url: str, take: Callable[[int], None]) -> bytes:
        """Return what stands behind an address."""


_gates: RunVar[dict[int, anyio.CapacityLimiter]] = RunVar("illm.media.gates")


def places(chat: Chat) -> Iterator[tuple[Place, Image]]:
    """Go through a chat's images, first to last."""
    for at, message in enumerate(chat.messages):
        for part_at, part in enumerate(message.content):
            if isinstance(part, Image):
                yield (at, part_at), part


def has_images(chat: Chat) -> bool:
    """Tell whether there is anything to settle."""
    return any(True for _ in places(chat))


async def settle_images(chat: Chat, policy: ImagePolicy, fetcher: Fetches | None = None) -> Chat:
    """Fetch, decode and check every image of a chat.

    Args:
        chat: left as it is.
        policy: what images may be, and where they may be.
        fetcher: fetches; by default as the policy says.

    Returns:
        The chat with every image a `data:<type>;base64,...` URL, in its messages and in a new body.

    Raises:
        GatewayError: an image is refused; `param` is `messages[i].content[j]`.
    """
    found = dict(places(chat))
    if not found:
        return chat
    if len(found) > policy.max_images:
        raise GatewayError(
            Kind.INVALID_REQUEST, f"A request may have at most {policy.max_images} images", param="messages"
        )
    job = _Job(policy, fetcher)
    remote: dict[str, list[Place]] = {}
    for place, image in found.items():
        if is_remote(image):  # once for each address, however often a conversation shows it
            remote.setdefault(image.url or "", []).append(place)
        else:
            await job.decode(place, image)
    if remote:
        await job.fetch(remote)
    return _rewritten(chat, job.urls)


class _Job:
    """The images of one request on their way.  `urls` is what has come of them."""

    def __init__(self, policy: ImagePolicy, fetcher: Fetches | None) -> None:
        self.urls: dict[Place, str] = {}
        self._policy = policy
        self._fetcher = fetcher
        self._left = policy.max_total_bytes
        self._problem: GatewayError | None = None
        self._queued: set[str] = set()

    async def decode(self, place: Place, image: Image) -> None:
        try:
            size = await _aside(value_size(image), is_written, image, self._policy)
            if size is not None:
                self._take(size)
                self.urls[place] = image.url or ""
                return
            data = await _aside(value_size(image), read_value, image, self._policy)
            self._take(len(data))
            self.urls[place] = await _aside(len(data), write_data_url, data, self._policy)
        except GatewayError as error:
            raise placed(error, _path(place)) from None

    async def fetch(self, remote: Mapping[str, Sequence[Place]]) -> None:
        fetcher = self._fetcher or _fetcher(self._policy)
        gate, own = _gate(self._policy.max_fetches), anyio.CapacityLimiter(AT_ONCE)
        self._queued = set(remote)
        with anyio.move_on_after(self._policy.timeout) as scope:
            async with anyio.create_task_group() as tasks:
                for url, shown in remote.items():
                    tasks.start_soon(self._fetch, fetcher, gate, own, url, shown, tasks.cancel_scope)
        if self._problem is not None:
            raise self._problem
        missing = [(shown[0], url) for url, shown in remote.items() if shown[0] not in self.urls]
        if scope.cancelled_caught and missing:
            raise self._late(missing)

    async def _fetch(
        self,
        fetcher: Fetches,
        gate: anyio.CapacityLimiter,
        own: anyio.CapacityLimiter,
        url: str,
        shown: Sequence[Place],
        scope: anyio.CancelScope,
    ) -> None:
        # Inside the group an error is a value, and the first one ends the others.
        try:
            async with own, gate:
                self._queued.discard(url)
                data = await fetcher.fetch(url, lambda size: self._take(size * len(shown)))
            written = await _aside(len(data), write_data_url, data, self._policy)
            self.urls |= dict.fromkeys(shown, written)
        except GatewayError as error:
            self._problem = self._problem or placed(error, _path(shown[0]))
            scope.cancel()

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise refused(f"the request's images are together larger than {self._policy.max_total_bytes} bytes")

    def _late(self, missing: Sequence[tuple[Place, str]]) -> GatewayError:
        started = [place for place, url in missing if url not in self._queued]
        if not started:
            return GatewayError(Kind.OVERLOADED, "Too many images are being fetched; try again later")
        return placed(refused("the image could not be fetched in time"), _path(started[0]))


def _rewritten(chat: Chat, urls: Mapping[Place, str]) -> Chat:
    messages, body = list(chat.messages), list(chat.body.get("messages", ()))
    for at in sorted({at for at, _ in urls}):
        content: list[Any] = list(messages[at].content)
        wire: list[Any] = list(body[at]["content"]) if at < len(body) else []
        for (message_at, part_at), url in urls.items():
            if message_at == at:
                content[part_at] = Image(url=url)
                if wire:
                    wire[part_at] = _wire_part(wire[part_at], url)
        messages[at] = replace(messages[at], content=tuple(content))
        if wire:
            body[at] = {**body[at], "content": wire}
    return replace(chat, messages=tuple(messages), body={**chat.body, "messages": body} if body else chat.body)


def _wire_part(part: Mapping[str, Any], url: str) -> dict[str, Any]:
    # Written anew: a key that nobody looked at could hold an address.
    given = part.get("image_url")
    detail = given.get("detail") if isinstance(given, Mapping) else None
    # `original` is OpenAI's newest word, which servers refuse; none of them acts on the others.
    kept = {} if detail in (None, "original") else {"detail": detail}
    return {"type": "image_url", "image_url": {"url": url, **kept}}


def _path(place: Place) -> str:
    return f"messages[{place[0]}].content[{place[1]}]"


async def _aside(size: int, work: Any, *given: Any) -> Any:
    return await anyio.to_thread.run_sync(work, *given) if size > LARGE else work(*given)


def _gate(size: int) -> anyio.CapacityLimiter:
    gates = _gates.get({})
    gate = gates.setdefault(size, anyio.CapacityLimiter(size)) if size not in gates else gates[size]
    _gates.set(gates)
    return gate


@lru_cache(maxsize=8)
def _fetcher(policy: ImagePolicy) -> Fetches:
    from illm.media.fetch import Fetcher

    return Fetcher(policy)

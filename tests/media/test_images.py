"""A chat in, a chat out."""

import copy
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from illm.core.requests import Image, Text
from illm.dialects import openai
from illm.errors import GatewayError, Kind
from illm.media.images import AT_ONCE, has_images, settle_images
from illm.media.policy import ImagePolicy
from illm.media.refusals import HOST, refused
from media.pictures import chat, data_url, gif, jpeg, part, png

pytestmark = pytest.mark.anyio


class Shelf:
    """A fetcher that has everything at hand: bytes, refusals, or events that never come."""

    def __init__(self, things: dict[str, bytes | GatewayError | anyio.Event]) -> None:
        self.things = things
        self.fetched: list[str] = []
        self.now = self.most = 0
        self.left = 0

    async def fetch(self, url: str, take: Callable[[int], None]) -> bytes:
        self.fetched.append(url)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            thing = self.things[url]
            await anyio.lowlevel.checkpoint()
            if isinstance(thing, anyio.Event):
                await thing.wait()
                thing = png()
            if isinstance(thing, GatewayError):
                raise thing
            take(len(thing))
            return thing
        except anyio.get_cancelled_exc_class():
            self.left += 1
            raise
        finally:
            self.now -= 1


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


async def refusal(request, policy: ImagePolicy | None = None, shelf: Shelf | None = None) -> GatewayError:
    with anyio.fail_after(5):
        with pytest.raises(GatewayError) as caught:
            await settle_images(request, policy or ImagePolicy(), shelf)
    assert caught.value.__cause__ is None
    return caught.value


async def test_both_readings_of_a_request_change_and_the_request_does_not():
    shelf = Shelf({"http://a/": png(), "https://b/": jpeg()})
    request = chat(
        {"url": "http://a/", "detail": "high", "url2": "file:///etc/passwd"},
        "https://b/",
        {"url": data_url(gif(), "image/png"), "detail": "original"},
        {"type": "image_base64", "image_base64": data_url(png()).partition(",")[2]},
        {**part({"url": "http://a/", "detail": None}), "image": "file:///etc/passwd", "uuid": "1"},
    )
    before = copy.deepcopy(request.body)
    settled = await settle_images(request, ImagePolicy(), shelf)
    first, second, third = data_url(png()), data_url(jpeg(), "image/jpeg"), data_url(gif(), "image/gif")
    urls = [first, second, third, first, first]
    assert settled.messages[0].content == (Text("See:"), *(Image(url=url) for url in urls))
    assert settled.body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "See:"},
                part({"url": first, "detail": "high"}),
                *(part({"url": url}) for url in urls[1:]),
            ],
        }
    ]
    assert request.body == before
    assert request.messages[0].content[1] == Image(url="http://a/")
    assert sorted(shelf.fetched) == ["http://a/", "https://b/"], "once each"


async def test_other_messages_and_fields_stay_the_very_same():
    body = {
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": [part("data:;base64," + data_url(png()).partition(",")[2])], "name": "x"},
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "user", "content": [text("a"), part("http://a/"), text("b")]},
        ],
        "top_k": 3,
    }
    request = openai.parse_chat(body)
    settled = await settle_images(request, ImagePolicy(), Shelf({"http://a/": png()}))
    for at in (0, 2):
        assert settled.messages[at] is request.messages[at]
        assert settled.body["messages"][at] is body["messages"][at]
    assert settled.body["top_k"] == 3
    assert settled.body["messages"][1] == {"role": "user", "name": "x", "content": [part({"url": data_url(png())})]}
    assert settled.messages[3].content == (Text("a"), Image(url=data_url(png())), Text("b"))


async def test_a_chat_without_images_is_handed_back():
    request = chat()
    assert not has_images(request)
    assert has_images(chat("http://a/"))
    assert await settle_images(request, ImagePolicy()) is request


async def test_large_images_by_value_and_fetched():
    large = png() + bytes(2**20)
    settled = await settle_images(chat(data_url(large), "http://a/"), ImagePolicy(), Shelf({"http://a/": large}))
    assert settled.messages[0].content[1:] == (Image(url=data_url(large)),) * 2


@pytest.mark.parametrize("thing", [refused("why"), b"<html>", b"", png()[:20]])
async def test_a_refusal_names_its_place(thing):
    error = await refusal(chat(data_url(png()), "http://a/"), shelf=Shelf({"http://a/": thing}))
    assert error.kind is Kind.INVALID_REQUEST
    assert error.param == "messages[0].content[2]"
    assert error.message.startswith("messages[0].content[2]: ")


@pytest.mark.parametrize("url", ["data:text/html,<b>", "data:image/png;base64,!!!", "data:image/png;base64,", "data:"])
async def test_a_bad_data_url_names_its_place(url):
    error = await refusal(chat(data_url(png()), url, "http://never/"), shelf=Shelf({}))
    assert (error.kind, error.param) == (Kind.INVALID_REQUEST, "messages[0].content[2]")


async def test_the_real_fetcher_is_the_default():
    error = await refusal(chat("http://127.0.0.1/"))
    assert error.message == f"messages[0].content[1]: {HOST}"


async def test_how_many():
    policy = ImagePolicy(max_images=2)
    await settle_images(chat(data_url(png()), data_url(png())), policy)
    error = await refusal(chat(*[data_url(png())] * 3), policy)
    assert (error.kind, error.param) == (Kind.INVALID_REQUEST, "messages")
    error = await refusal(chat(*["http://a/"] * 3), policy, Shelf({}))
    assert error.message == "A request may have at most 2 images"


@pytest.mark.parametrize(
    "images", [[data_url(png()), data_url(png())], ["http://a/", "http://b/"], ["http://a/", "http://a/"]]
)
async def test_how_much_together(images):
    things = {"http://a/": png(), "http://b/": png()}
    size = len(png())
    await settle_images(chat(*images), ImagePolicy(max_total_bytes=2 * size), Shelf(things))
    error = await refusal(chat(*images), ImagePolicy(max_total_bytes=2 * size - 1), Shelf(things))
    assert "together larger than" in error.message


async def test_how_many_pixels():
    for image in (data_url(png(5, 5)), "http://a/"):
        error = await refusal(chat(image), ImagePolicy(max_pixels=24), Shelf({"http://a/": png(5, 5)}))
        assert "more than 24 pixels" in error.message


async def test_how_many_at_once():
    event = anyio.Event()
    urls = [f"http://{at}/" for at in range(3 * AT_ONCE)]
    shelf = Shelf(dict.fromkeys(urls, event))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(settle_images, chat(*urls), ImagePolicy(), shelf)
            while shelf.now < AT_ONCE:
                await anyio.lowlevel.checkpoint()
            event.set()
    assert len(shelf.fetched) == len(urls)
    assert shelf.most == AT_ONCE


async def test_one_refusal_ends_the_other_fetches():
    things = {"http://a/": anyio.Event(), "http://b/": refused("why"), "http://c/": anyio.Event()}
    shelf = Shelf(things)
    error = await refusal(chat(*things), shelf=shelf)
    assert error.param == "messages[0].content[2]"
    assert shelf.left == 2


async def test_the_deadline_is_for_all_of_them():
    shelf = Shelf({"http://a/": png(), "http://b/": anyio.Event()})
    error = await refusal(chat("http://a/", "http://b/"), ImagePolicy(timeout=0.05), shelf)
    assert error.kind is Kind.INVALID_REQUEST
    assert error.message == "messages[0].content[2]: the image could not be fetched in time"
    assert shelf.left == 1


async def test_who_only_waited_for_its_turn_is_told_to_come_again():
    policy = ImagePolicy(max_fetches=1, timeout=0.05)
    event, shelf = anyio.Event(), Shelf({"http://b/": png()})
    busy = Shelf({"http://a/": event})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settle_images, chat("http://a/"), ImagePolicy(max_fetches=1), busy)
        while not busy.now:
            await anyio.lowlevel.checkpoint()
        error = await refusal(chat("http://b/"), policy, shelf)
        event.set()
    assert error.kind is Kind.OVERLOADED
    assert shelf.fetched == []
    await settle_images(chat("http://b/"), policy, shelf)

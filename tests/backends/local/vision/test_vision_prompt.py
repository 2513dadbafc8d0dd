"""Reading a request's images: what is refused, with its place, and what is held meanwhile."""

import gc
import threading
from base64 import b64encode

import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("PIL", reason="the extra `local` is not installed")

from illm.backends.local.engine.illustrated import Illustrated, Picture  # noqa: E402
from illm.backends.local.vision.load import load_processor  # noqa: E402
from illm.backends.local.vision.prompt import VisionRenderer  # noqa: E402
from illm.backends.local.vision.reader import Budget, PictureReader  # noqa: E402
from illm.core.requests import Audio, Image, Message, Text  # noqa: E402
from illm.errors import GatewayError, Kind  # noqa: E402

from . import families  # noqa: E402
from .families import picture  # noqa: E402

pytestmark = pytest.mark.model


class Nobody:
    """A tower that is never asked: these tests end before the engine."""

    def rows(self, picture):
        raise AssertionError


@pytest.fixture
def renderer(tmp_path):
    """Return a maker of renderers over a family's files."""

    def make(name: str, *, context: int = 1000, max_pixels: int = 10_000, limit: int = 1 << 30) -> VisionRenderer:
        own = families.write(name, tmp_path / name)
        words = families.tokenizer(families.template(families.PLACEHOLDERS[name]))
        takes = frozenset({"pixel_values", "pixel_attention_mask", "image_sizes", "image_grid_thw"})
        reader = PictureReader(load_processor(tmp_path / name, own.config, words), name, takes, budget=Budget(limit))
        return VisionRenderer(
            words,
            len(words),
            name,
            reader=reader,
            tower=Nobody(),
            context=context,
            max_pixels=max_pixels,
            rope=getattr(own.model, "get_rope_index", None),
        )

    return make


def by_value(data: bytes) -> Image:
    return Image(url=f"data:image/png;base64,{b64encode(data).decode()}")


def user(*parts) -> tuple[Message, ...]:
    return (
        Message("system", (Text("be brief"),)),
        Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts)),
    )


def refused(renderer, *parts) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        renderer.chat(user(*parts))
    return caught.value


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 40), (90, 1), (4, 3), (100, 100)])
@pytest.mark.parametrize("name", families.NAMES)
def test_any_shape_is_read(renderer, name, size):
    prompt = renderer(name).chat(user("?", by_value(picture(1, *size))))
    assert isinstance(prompt, Illustrated)
    assert prompt.pictures


def test_a_shape_that_a_family_cannot_take(renderer):
    error = refused(renderer("qwen2_vl"), by_value(picture(1, 300, 1)))
    assert error.param == "messages[1].content[0]"
    assert error.message == "messages[1].content[0]: the model cannot take an image of 300 by 1 pixels"


@pytest.mark.parametrize(
    "image",
    [
        Image(base64="not base64 at all!"),
        Image(base64=""),
        Image(url="https://example.org/cat.png"),
        Image(url="file:///etc/passwd"),
        Image(url="data:image/svg+xml,<svg/>"),
        Image(url="data:image/png;base64"),
        by_value(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        by_value(picture(1)[:60]),
    ],
    ids=range(8),
)
def test_what_is_no_image_names_its_part(renderer, image):
    error = refused(renderer("llava"), "this?", by_value(picture(1)), image)
    assert error.kind is Kind.INVALID_REQUEST
    assert error.param == "messages[1].content[2]"


def test_sound_is_not_looked_at(renderer):
    error = refused(renderer("llava"), Audio("AAAA", "wav"))
    assert (error.kind, error.param) == (Kind.CAPABILITY, "messages[1].content")


def test_one_image_may_have_so_many_pixels_and_all_of_them_four_times_that(renderer):
    here = renderer("llava", max_pixels=600)
    assert refused(here, by_value(picture(1, 30, 21))).param == "messages[1].content[0]"
    here.chat(user(*[by_value(picture(1))] * 4))
    error = refused(here, *[by_value(picture(1))] * 5)
    assert error.param == "messages[1].content[4]"
    assert "0 pixels that are left" in error.message


def test_images_longer_than_the_context_are_not_all_read(renderer):
    error = refused(renderer("llava", context=30), *[by_value(picture(at)) for at in range(4)], by_value(b"never read"))
    assert (error.kind, error.param) == (Kind.CONTEXT_LENGTH, "messages")
    assert "messages[1].content[3]" in error.message


def test_what_is_held_is_bounded_and_given_back(renderer):
    each = 3 * 24 * 24 * 4
    here = renderer("llava", limit=3 * each)
    budget = here._reader._budget
    held = here.chat(user(*[by_value(picture(at)) for at in range(2)]))
    assert budget.held == 2 * each
    error = refused(here, *[by_value(picture(at)) for at in range(2)])
    assert (error.kind, error.param) == (Kind.OVERLOADED, "messages[1].content[1]")
    del error
    gc.collect()
    assert budget.held == 2 * each
    del held
    gc.collect()
    assert budget.held == 0
    budget.hold(whole := type("Picture", (), {})(), 100 * each)  # alone, anything is let in
    del whole
    assert budget.held == 0


def test_positions_go_on_behind_a_grid(renderer):
    prompt = renderer("qwen2_vl").chat(user("ab", by_value(picture(1, 24, 16)), "c"))
    assert [one.rows for one in prompt.pictures] == [6]
    first = prompt._places[0]
    grid = prompt.positions(first, first + 6)
    assert (grid - first).tolist() == [[0] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2] * 2]
    # Three columns wide, so six tokens take three positions.
    end = len(prompt)
    assert prompt.positions(end - 1, end + 2).tolist() == [[end - 4, end - 3, end - 2]] * 3
    assert prompt.positions(0, 2).tolist() == [[0, 1]] * 3


def test_a_picture_that_is_collected_while_another_is_counted_holds_nobody_up():
    """The collector may run anywhere, and so what it calls may too: within the very lines that count."""
    budget, held = Budget(100), [Picture(b"a", {}, 1)]

    class Collecting(int):
        def __radd__(self, other):
            held.clear()
            return int(self) + other

    budget.hold(held[0], 7)
    counting = threading.Thread(target=budget.hold, args=(Nobody, Collecting(5)), daemon=True)
    counting.start()
    counting.join(30)
    assert not counting.is_alive()
    assert not held

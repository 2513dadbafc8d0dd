"""Image files of every kind, and those that are meant to do harm."""

import struct
import zlib
from io import BytesIO

import pytest

Pixels = pytest.importorskip("PIL.Image", reason="the extra `local` is not installed")
np = pytest.importorskip("numpy", reason="the extra `local` is not installed")
image_utils = pytest.importorskip("transformers.image_utils", reason="the extra `local` is not installed")

from illm.backends.local.vision.decoding import decode  # noqa: E402
from illm.errors import GatewayError, Kind  # noqa: E402

pytestmark = pytest.mark.model

GRADIENT = Pixels.linear_gradient("L").resize((7, 5))
COLOURS = Pixels.merge("RGB", (GRADIENT, GRADIENT.rotate(180), GRADIENT.point(lambda value: value // 2)))


def file(image, kind="PNG", **more) -> bytes:
    out = BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def turned() -> bytes:
    exif = Pixels.Exif()
    exif[0x0112] = 6
    return file(COLOURS, "JPEG", exif=exif)


FILES = {
    "png": file(COLOURS),
    "jpeg": file(COLOURS, "JPEG"),
    "progressive": file(COLOURS, "JPEG", progressive=True),
    "webp": file(COLOURS, "WEBP"),
    "gif": file(COLOURS, "GIF"),
    "grey": file(GRADIENT),
    "one bit": file(GRADIENT.convert("1")),
    "16 bit": file(Pixels.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800)),
    "alpha": file(Pixels.merge("RGBA", (*COLOURS.split(), GRADIENT))),
    "grey alpha": file(Pixels.merge("LA", (GRADIENT, GRADIENT))),
    "palette": file(COLOURS.quantize(9)),
    "clear palette": file(COLOURS.quantize(9), transparency=bytes(range(9))),
    "cmyk": file(COLOURS.convert("CMYK"), "JPEG"),
    "turned": turned(),
    "animated gif": file(COLOURS, "GIF", save_all=True, append_images=[GRADIENT.convert("RGB")]),
    "animated webp": file(COLOURS, "WEBP", save_all=True, append_images=[GRADIENT.convert("RGB")]),
    "animated png": file(COLOURS, "PNG", save_all=True, append_images=[GRADIENT.convert("RGB")]),
    "one pixel": file(COLOURS.resize((1, 1))),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # the library's; ours has none
def test_pixels_are_those_of_the_library(name):
    theirs = image_utils.load_image(Pixels.open(BytesIO(FILES[name])))
    ours = decode(FILES[name], max_pixels=35)
    assert (ours.mode, ours.size) == ("RGB", theirs.size)
    assert ours.tobytes() == theirs.tobytes()


def test_a_turned_picture_is_upright():
    assert decode(FILES["turned"], max_pixels=35).size == (5, 7)


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    data = b"Comment\0\0" + zlib.compress(bytes(80 << 20), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    plain = FILES["png"]
    return plain[:33] + chunk + plain[33:]


HOSTILE = {
    "nothing": b"",
    "words": b"not an image at all",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>',
    "tiff": file(COLOURS, "TIFF"),
    "bmp": file(COLOURS, "BMP"),
    "postscript": file(COLOURS, "EPS"),
    "half a png": FILES["png"][:-40],
    "half a jpeg": FILES["jpeg"][: len(FILES["jpeg"]) // 2],
    "half a webp": FILES["webp"][:-30],
    "half a gif": FILES["gif"][:-20],
    "header alone": FILES["png"][:33],
    "zero wide": FILES["png"][:16] + bytes(4) + FILES["png"][20:],
    "broken data": FILES["png"][:60] + bytes(20) + FILES["png"][80:],
    "text that explodes": text_bomb(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_read_is_the_files_fault(name):
    with pytest.raises(GatewayError, match=r"damaged|cannot be read") as caught:
        decode(HOSTILE[name], max_pixels=1000)
    assert caught.value.kind is Kind.INVALID_REQUEST


def test_a_bomb_is_not_decoded():
    small = bomb(60_000, 30_000)
    assert len(small) < 1 << 20
    with pytest.raises(GatewayError, match="pixels"):
        decode(small, max_pixels=64_000_000)


@pytest.mark.parametrize("size", [(7, 5), (35, 1)])
def test_the_limit_is_the_last_size_that_is_taken(size):
    data = file(COLOURS.resize(size))
    assert decode(data, max_pixels=35).size == size
    with pytest.raises(GatewayError, match="more than the 34 pixels"):
        decode(data, max_pixels=34)

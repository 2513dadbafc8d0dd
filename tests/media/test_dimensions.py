"""What an image's header says, and what happens when it lies or ends."""

import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from illm.errors import GatewayError
from illm.media.dimensions import MAX_BLOCKS, MAX_SEGMENTS, Picture, inspect
from media.pictures import KINDS, SCAN, frame, gif, jpeg, png, riff, segment

COMMENT = b"!\xfe\x03abc\x00"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (640, 480), (16383, 16383)])
def test_every_kind(kind, size):
    make, media_type = KINDS[kind]
    assert inspect(make(*size)) == Picture(media_type, *size)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_anywhere(kind):
    make, _ = KINDS[kind]
    whole = make(640, 480)
    kept = {"png": 33, "jpeg": len(whole) - 3, "gif": len(whole) - 4}.get(kind, 30)
    for end in range(kept):
        with pytest.raises(GatewayError, match=r"cut off|expected a PNG"):
            inspect(whole[:end])
    assert inspect(whole[:kept]) == inspect(whole)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"BM" + bytes(60),
        b"II*\0" + bytes(60),
        b"%PDF-1.7",
    ],
)
def test_other_things(data):
    with pytest.raises(GatewayError, match="expected a PNG, JPEG, GIF or WebP image"):
        inspect(data)


APP = segment(0xE1, b"Exif\0\0" + b"\xff\xd8" + frame(9, 9) + bytes(1000))  # a thumbnail's frame is not the image's


@pytest.mark.parametrize(
    "data",
    [
        jpeg(7, 5, APP, segment(0xE2, bytes(65533)), segment(0xDB, bytes(65)), segment(0xFE, b"hello")),
        jpeg(7, 5, marker=0xC2),
        jpeg(7, 5, b"\xff\xff\xff"),
        gif(7, 5, colours=8),
        gif(7, 5, COMMENT, b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00", b"!\xf9\x04\x00\x00\x00\x00\x00"),
        gif(0, 0, at=(0, 0, 7, 5)),
        gif(1, 1, at=(3, 1, 4, 4)),
    ],
)
def test_what_may_come_before_the_size(data):
    assert inspect(data)[1:] == (7, 5)


@pytest.mark.parametrize(
    "data",
    [
        png(0, 5),
        png(1 << 31, 1),
        png()[:8] + b"\x00\x00\x00\x0e" + png()[12:],
        png()[:12] + b"CgBI" + png()[16:],
        jpeg(0, 5),
        jpeg(5, 0),  # the height comes after the scan
        jpeg(7, 5, frame(9, 9)),  # two frame headers: decoders differ on which counts
        jpeg(7, 5, segment(0xFE, b""), b"garbage"),
        jpeg(7, 5, b"\xff\xe0\x00\x01"),
        jpeg(7, 5, b"\xff\xd8"),
        jpeg(7, 5, SCAN),
        b"\xff\xd8" + SCAN,
        b"\xff\xd8\xff\xe0\x00\x02" * 9,
        jpeg(7, 5, *[segment(0xFE, b"")] * MAX_SEGMENTS),
        b"\xff\xd8" + b"\xff" * 100000,
        gif(7, 5, at=(0, 0, 0, 5)),
        gif(7, 5, b"x"),
        gif(7, 5, b";"),
        gif(7, 5, b"!\xfe" + b"\x01a" * MAX_BLOCKS + b"\x00"),
        riff(b"VP8 ", b"\x11\x02\x00\x9d\x01\x2a\x07\x00\x05\x00"),  # not a key frame
        riff(b"VP8 ", b"\x10\x02\x00\x00\x00\x00\x07\x00\x05\x00"),
        riff(b"VP8L", b"\x00\x06\x00\x01\x00"),
        riff(b"ALPH", bytes(20)),
    ],
)
def test_what_is_damaged_or_hides_its_size(data):
    with pytest.raises(GatewayError, match="damaged"):
        inspect(data)


@pytest.mark.parametrize("unit", [b"\xff", b"\xff\xfe\x00\x02", b"\xff\xd0", b"!\xfe\x01a", b"!\xfe\x00", b"\x01a"])
@pytest.mark.parametrize(
    "start", [b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x02", b"GIF89a" + bytes(7), b"GIF89a" + bytes(7) + b"!\xfe"]
)
def test_bounded_time(start, unit):
    began = time.process_time()
    with pytest.raises(GatewayError):
        inspect(start + unit * (20 * 2**20 // len(unit)))
    assert time.process_time() - began < 1


MAGIC = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF89a",
    b"GIF87a",
    b"RIFF\0\0\0\0WEBPVP8 ",
    b"RIFF\0\0\0\0WEBPVP8L",
    b"RIFF\0\0\0\0WEBPVP8X",
]


@given(st.sampled_from(MAGIC), st.binary(max_size=80))
@example(b"\xff\xd8\xff", b"\xc0\x00\x08\x08")
def test_nothing_but_a_refusal_comes_of_nonsense(magic, rest):
    try:
        picture = inspect(magic + rest)
    except GatewayError:
        return
    assert picture.width > 0
    assert picture.height > 0


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 60), st.binary(min_size=1, max_size=4))
def test_nothing_but_a_refusal_comes_of_damage(kind, at, patch):
    data = KINDS[kind][0](640, 480)
    with suppress(GatewayError):
        inspect(data[:at] + patch + data[at + len(patch) :])

"""Images by value: many spellings in, one out."""

from base64 import b64decode, b64encode, encodebytes
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.core.requests import Image
from illm.errors import GatewayError
from illm.media.data_urls import MAX_ESCAPED, is_remote, is_written, read_value, write_data_url
from illm.media.policy import ImagePolicy
from media.pictures import KINDS, png

POLICY = ImagePolicy()
DATA = png(640, 480) + b"\xfb\xff\xfe" * 100 + b"!"  # whose base64 has `+`, `/` and padding
TEXT = b64encode(DATA).decode()


def test_the_data_has_all_there_is_to_get_wrong():
    assert {"+", "/", "="} <= set(TEXT)


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{TEXT}",
        f"DATA:IMAGE/PNG;BASE64,{TEXT}",
        f"data:image/png;charset=utf-8;base64,{TEXT}",
        f"data:image/png;name=a.png; base64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:image/jpeg;base64,{TEXT}",
        f"data:text/html;base64,{TEXT}",
        f"data:image/png;base64,{TEXT.rstrip('=')}",
        f"data:image/png;base64,{quote(TEXT, safe='')}",
        f"data:image/png;base64,{quote(TEXT, safe='').replace('%2F', '%2f')}",
        f"data:image/png;base64,{encodebytes(DATA).decode()}",
        f"data:image/png;base64,\r\n {TEXT} \t",
        f"data:image/png,{quote_from_bytes(DATA)}",
        f"data:,{quote_from_bytes(DATA)}",
        f"data:image/png;base64;x=y,{quote_from_bytes(DATA)}",  # not last, so not the marker
    ],
)
def test_spellings(url):
    assert not is_remote(Image(url=url))
    data = read_value(Image(url=url), POLICY)
    assert data == DATA
    assert write_data_url(data, POLICY) == f"data:image/png;base64,{TEXT}"


@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip("="), encodebytes(DATA).decode()])
def test_bare_base64(text):
    assert read_value(Image(base64=text), POLICY) == DATA


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "=",
        "====",
        "A",
        "AAAAA",
        "!!!!",
        "AA!A",
        "AAAA=AAA",
        "QQ==QUJD",
        "QQ==" * 200000,
        "A" * 393216 + "=" + "AAA",
        "AA-_",
        "ÄÄÄÄ",
        "AA%41A",
        "%",
        "AAAA%00",
        "AAAA\x00",
        "\ud800AAA",
    ],
)
def test_what_is_no_base64(rest):
    for image in (Image(url=f"data:image/png;base64,{rest}"), Image(base64=rest)):
        with pytest.raises(GatewayError, match=r"expected an image as base64|empty"):
            read_value(image, POLICY)


@pytest.mark.parametrize("url", ["data:", "data:image/png;base64", "data:" + "x" * 600 + ",AAAA"])
def test_what_is_no_data_url(url):
    with pytest.raises(GatewayError, match="expected a data URL"):
        read_value(Image(url=url), POLICY)


@pytest.mark.parametrize("html", ["<script>alert(1)</script>", "%3Cscript%3E"])
def test_html_is_no_image_whatever_it_is_called(html):
    for head in ("data:text/html,", "data:image/png,"):
        with pytest.raises(GatewayError, match="expected a PNG"):
            write_data_url(read_value(Image(url=head + html), POLICY), POLICY)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 393215, 393216, 393217, 393219, 1000001])
def test_large_ones_are_cut_and_joined_right(length):
    data = png() + bytes(length)
    url = write_data_url(data, POLICY)
    assert url == f"data:image/png;base64,{b64encode(data).decode()}"
    assert read_value(Image(url=url), POLICY) == data


@pytest.mark.parametrize("size", [99, 100, 101, 102, 103])
def test_the_limit_is_exact(size):
    policy = ImagePolicy(max_bytes=100)
    for url in (f"data:;base64,{b64encode(bytes(size)).decode()}", f"data:,{quote_from_bytes(bytes(size))}"):
        if size <= 100:
            assert len(read_value(Image(url=url), policy)) == size
        else:
            with pytest.raises(GatewayError, match="larger than 100 bytes"):
                read_value(Image(url=url), policy)


def test_escapes_are_bounded():
    with pytest.raises(GatewayError, match="not base64"):
        read_value(Image(url="data:image/png," + "%41" * MAX_ESCAPED), POLICY)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels(kind):
    make, media_type = KINDS[kind]
    assert write_data_url(make(100, 10), ImagePolicy(max_pixels=1000)).startswith(f"data:{media_type};base64,")
    with pytest.raises(GatewayError, match="more than 999 pixels"):
        write_data_url(make(100, 10), ImagePolicy(max_pixels=999))


@given(st.binary(max_size=300), st.sampled_from([b"", png()]))
def test_round_trip(data, start):
    for url in (f"data:x;base64,{b64encode(start + data).decode()}", f"data:x,{quote_from_bytes(start + data)}"):
        try:
            assert read_value(Image(url=url), POLICY) == start + data
        except GatewayError:
            assert not start + data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [b"", b"x", b"xy", b"\xfb\xff" * 200_000])
def test_what_is_written_already_is_known_to_be(kind, tail):
    data = KINDS[kind][0](640, 480) + tail
    assert is_written(Image(url=write_data_url(data, POLICY)), POLICY) == len(data)


@given(
    st.sampled_from([make for make, _ in KINDS.values()]),
    st.binary(max_size=8),
    st.sampled_from(["image/png", "image/jpeg", "image/gif", "image/webp", "IMAGE/PNG", "image/png;a=b", "text/html"]),
    st.lists(st.tuples(st.integers(-40, 40), st.sampled_from([*"AB/+=-_%\n\u00e9", ""])), max_size=2),
)
def test_what_passes_as_written_is_what_would_be_written(picture, tail, kind, changes):
    url = f"data:{kind};base64,{b64encode(picture(640, 480) + tail).decode()}"
    for at, character in changes:
        at %= len(url)
        url = url[:at] + character + url[at + 1 :]
    size = is_written(Image(url=url), POLICY)
    if size is not None:
        data = read_value(Image(url=url), POLICY)
        assert (len(data), write_data_url(data, POLICY)) == (size, url)


def test_limits_hold_for_what_is_written_already():
    url = write_data_url(DATA, POLICY)
    assert is_written(Image(url=url), ImagePolicy(max_bytes=len(DATA))) == len(DATA)
    for strict in (ImagePolicy(max_bytes=len(DATA) - 1), ImagePolicy(max_pixels=640 * 480 - 1)):
        assert is_written(Image(url=url), strict) is None
    assert is_written(Image(base64=TEXT), POLICY) is None


@given(st.lists(st.sampled_from(["data:", ";", "base64", ",", "=", "%", "iVBORw0KGgo", "%2B"]) | st.text(max_size=8)))
def test_nothing_but_a_refusal_comes_of_nonsense(pieces):
    text = "".join(pieces)
    for image in (Image(url=text), Image(url="data:;base64," + text), Image(url="data:," + text), Image(base64=text)):
        try:
            url = write_data_url(read_value(image, POLICY), POLICY)
            b64decode(url.partition(",")[2], validate=True)
        except GatewayError:
            pass

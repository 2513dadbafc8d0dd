"""What may stand in an address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.errors import GatewayError
from illm.media.addresses import read_address
from illm.media.links import MAX_URL, follow, read_link
from illm.media.policy import WEB_PORTS
from illm.media.refusals import HOST, NO_ANSWER

SCHEME = "only http, https and data URLs are fetched"
USER = "a URL with a user or a password is not fetched"
PORT = "the port of the URL is not allowed"
INVALID = "the URL is not valid"

REFUSED = [
    ("file:///etc/passwd", SCHEME),
    ("FILE:///etc/passwd", SCHEME),
    ("ftp://example.com/a.png", SCHEME),
    ("gopher://example.com/_x", SCHEME),
    ("dict://example.com/x", SCHEME),
    ("data:image/png;base64,AA", SCHEME),
    ("javascript:alert(1)", SCHEME),
    ("//example.com/a.png", SCHEME),
    ("/etc/passwd", SCHEME),
    ("", SCHEME),
    ("http+unix://%2Frun%2Fdocker.sock/x", SCHEME),
    ("http://user@example.com/", USER),
    ("http://user:pw@example.com/", USER),
    ("http://:pw@example.com/", USER),
    ("http://example.com@127.0.0.1/", USER),
    ("http://127.0.0.1\\@example.com/", USER),
    ("http://example.com:22/", PORT),
    ("http://example.com:8080/", PORT),
    ("http://example.com:0/", PORT),
    ("http://example.com:-80/", PORT),
    ("http://example.com:65616/", PORT),
    ("http://example.com:http/", INVALID),
    ("http://[::1/", INVALID),
    ("http://[x]/", INVALID),
    ("http://exa\nmple.com/", INVALID),
    ("http://example.com/\r\nX: y", INVALID),
    ("http://300.1.1.1/", INVALID),
    ("http://0177.0.0.1/", INVALID),
    ("http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/", INVALID),
    ("http://\uff11\uff12\uff17.0.0.1/", INVALID),
    ("http://example\u3002com\u2024evil/", INVALID),
    ("http://127.1/", HOST),
    ("http://2130706433/", HOST),
    ("http://0x7f000001/", HOST),
    ("http://0x7f.1/", HOST),
    ("http://017700000001/", HOST),
    ("http://127.0.0.1.1/", HOST),
    ("http://example.0x1/", HOST),
    ("http://1..2/", HOST),
    ("http:///a.png", HOST),
    ("http:example.com", HOST),
    ("http://./", HOST),
    ("http://example.com../", HOST),
    ("http://a..b/", HOST),
    ("http://-a.example/", HOST),
    ("http://exa mple.com/", HOST),
    ("http://exa%6dple.com/", HOST),
    ("http://example.com%00.evil/", HOST),
    ("http://example.com\\.evil/", HOST),
    ("http://*/", HOST),
    ("http://[fe80::1%eth0]/", HOST),
    ("http://[fe80::1%25eth0]/", HOST),
    (f"http://{'a' * 64}.example/", HOST),
    (f"http://{'a.' * 127}example/", HOST),
]


@pytest.mark.parametrize(("url", "reason"), REFUSED)
def test_refused(url, reason):
    with pytest.raises(GatewayError) as caught:
        read_link(url, WEB_PORTS)
    assert caught.value.message == reason


def test_too_long():
    with pytest.raises(GatewayError, match="longer"):
        read_link("http://example.com/" + "a" * MAX_URL, WEB_PORTS)


@pytest.mark.parametrize(
    ("url", "host", "port", "authority"),
    [
        ("http://example.com", "example.com", 80, "example.com"),
        ("HTTP://EXAMPLE.com./a?b#c", "example.com", 80, "example.com"),
        ("https://example.com/", "example.com", 443, "example.com"),
        ("https://example.com:80/", "example.com", 80, "example.com:80"),
        ("http://example.com:443/", "example.com", 443, "example.com:443"),
        ("http://b\u00fccher.example/", "xn--bcher-kva.example", 80, "xn--bcher-kva.example"),
        ("http://8.8.8.8/", "8.8.8.8", 80, "8.8.8.8"),
        ("http://8.8.8.8./", "8.8.8.8", 80, "8.8.8.8"),
        ("https://[2606:4700::1111]:80/", "2606:4700::1111", 80, "[2606:4700::1111]:80"),
        ("http://my_bucket.example/", "my_bucket.example", 80, "my_bucket.example"),
    ],
)
def test_read(url, host, port, authority):
    link = read_link(url, WEB_PORTS)
    assert (link.host, link.port, link.authority) == (host, port, authority)
    assert (link.literal is not None) == (read_address(host) is not None)
    assert "#" not in str(link.url)


def test_the_address_takes_the_names_place_and_nothing_else_changes():
    link = read_link("https://example.com:80/a/b?c=%20d", WEB_PORTS)
    assert str(link.at(read_address("93.184.216.34"))) == "https://93.184.216.34:80/a/b?c=%20d"
    assert str(link.at(read_address("2606:4700::1"))) == "https://[2606:4700::1]:80/a/b?c=%20d"


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file:///etc/passwd", SCHEME),
        ("http://u:p@example.com/", USER),
        ("http://example.com:6379/", PORT),
        ("//example.com:22/", PORT),
        ("http://[x]/", NO_ANSWER),
        ("http://exa\tmple/", NO_ANSWER),
        ("x" * (MAX_URL + 1), NO_ANSWER),
        ("http://2130706433/", HOST),
    ],
)
def test_a_redirect_is_read_as_strictly(location, reason):
    with pytest.raises(GatewayError) as caught:
        follow(read_link("https://example.com/", WEB_PORTS), location, WEB_PORTS)
    assert caught.value.message == reason


def test_a_redirect_may_be_relative():
    link = follow(read_link("https://example.com/a/b", WEB_PORTS), "../c", WEB_PORTS)
    assert str(link.url) == "https://example.com/c"
    assert str(follow(link, "//other.example/d", WEB_PORTS).url) == "https://other.example/d"


PIECES = st.sampled_from(
    [
        "http://",
        "https://",
        "//",
        "[",
        "]",
        "::1",
        "%",
        "%25",
        "@",
        ":",
        "80",
        "0x7f",
        ".",
        "\\",
        "#",
        "?",
        "/",
        "127.0.0.1",
    ]
)


@given(st.lists(PIECES | st.text(max_size=6), max_size=8).map("".join), st.text(max_size=40))
def test_nothing_but_a_refusal_comes_of_nonsense(url, location):
    for text in (url, "http://" + url, "https://example.com" + url):
        try:
            link = read_link(text, WEB_PORTS)
            link.at(read_address("8.8.8.8"))
            assert link.authority.isascii()
            follow(link, location, WEB_PORTS)
            follow(link, url, WEB_PORTS)
        except GatewayError:
            pass

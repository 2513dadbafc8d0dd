"""Base URLs as operators write them."""

import pytest

from illm.backends.remote.address import parse_address


@pytest.mark.parametrize(
    ("text", "where", "authority", "target"),
    [
        ("http://there", ("there", 80, False, None), b"there", "/v1/x"),
        ("http://there:8000/", ("there", 8000, False, None), b"there:8000", "/v1/x"),
        ("http://there/v1", ("there", 80, False, None), b"there", "/v1/x"),
        ("http://there/v1/", ("there", 80, False, None), b"there", "/v1/x"),
        ("https://There.example/openai/v1", ("there.example", 443, True, None), b"there.example", "/openai/v1/x"),
        ("https://there:444/a/b", ("there", 444, True, None), b"there:444", "/a/b/v1/x"),
        ("http://there/v1beta", ("there", 80, False, None), b"there", "/v1beta/v1/x"),
        ("http://[::1]:8000", ("::1", 8000, False, None), b"[::1]:8000", "/v1/x"),
        ("http://[2001:db8::1]/v1", ("2001:db8::1", 80, False, None), b"[2001:db8::1]", "/v1/x"),
        ("http://bücher.example", ("xn--bcher-kva.example", 80, False, None), b"xn--bcher-kva.example", "/v1/x"),
        ("unix:///run/vllm.sock", ("", 0, False, "/run/vllm.sock"), b"localhost", "/v1/x"),
        ("http+unix://%2Frun%2Fvllm.sock/a/v1", ("", 0, False, "/run/vllm.sock"), b"localhost", "/a/v1/x"),
    ],
)
def test_what_can_be_written(text, where, authority, target):
    address = parse_address(text)
    assert (address.host, address.port, address.tls, address.socket) == where
    assert (address.authority, address.target("/v1/x")) == (authority, target)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "there:8000",
        "ftp://there",
        "http://",
        "http://:80",
        "http://there:0",
        "http://there:",
        "http://there:99999",
        "http://there:x",
        "http://user:secret@there",
        "https://secret@there",
        "http://there/?key=secret",
        "http://there/#a",
        "http://there/a b",
        "http://there/../b",
        "http://the re",
        "http://[::1",
        "http://[fe80::1%25eth0]",
        "http://there/\r\nx: y",
        "unix://there/a",
        "unix://",
        "http+unix://there",
    ],
)
def test_what_cannot(text):
    with pytest.raises(ValueError) as refusal:
        parse_address(text)
    assert "secret" not in str(refusal.value)

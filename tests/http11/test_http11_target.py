"""Request targets of every form."""

import pytest

from illm.http11 import Refusal, Target, split_target


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/", ("/", b"/", b"", None)),
        (b"/a/b?c=d?e", ("/a/b", b"/a/b", b"c=d?e", None)),
        (b"/a%20b/%C3%A4%2F?%zz", ("/a b/ä/", b"/a%20b/%C3%A4%2F", b"%zz", None)),
        (b"//x/y", ("//x/y", b"//x/y", b"", None)),
        (b"http://x:1/a?b", ("/a", b"/a", b"b", b"x:1")),
        (b"HTTPS://x", ("/", b"/", b"", b"x")),
        (b"http://x?b", ("/", b"/", b"b", b"x")),
    ],
)
def test_forms(target, parts):
    assert split_target("GET", target) == Target(*parts)


def test_asterisk_is_for_options():
    assert split_target("OPTIONS", b"*").path == "*"
    with pytest.raises(Refusal):
        split_target("GET", b"*")


@pytest.mark.parametrize("target", [b"a", b"x:80", b"ftp://x/", b"http://", b"/%", b"/%4", b"/%+1", b"/%ff", b"/%C3"])
def test_what_is_refused(target):
    with pytest.raises(Refusal) as refused:
        split_target("GET", target)
    assert refused.value.status == 400

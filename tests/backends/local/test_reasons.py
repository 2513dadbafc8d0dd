"""What is said of an accident, and what is not."""

import pytest

from illm.backends.local.reasons import reason


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (KeyError("weight"), "KeyError: 'weight'"),
        (ValueError(), "ValueError"),
        (ValueError("\n architecture x is not supported.\nTrace"), "ValueError: architecture x is not supported."),
        (OSError("no file in /srv/models/secret-1/x.bin, nor at C:\\data\\m"), "OSError: no file in …, nor at …"),
        (RuntimeError("size 3/4 of 10/12"), "RuntimeError: size 3/4 of 10/12"),
        (ValueError("x" * 500), "ValueError: " + "x" * 200 + "…"),
    ],
)  # fmt: skip
def test_one_line_without_paths(error, shown):
    assert reason(error) == shown

"""Names for requests and answers that nobody else uses: their random part is drawn once a process."""

import os
from itertools import count

_next = count(1).__next__
_prefix = ""


def new_name() -> str:
    """Return 32 hexadecimal digits, never twice the same."""
    return f"{_prefix}{_next():012x}"


def _draw() -> None:
    global _prefix
    _prefix = os.urandom(10).hex()


_draw()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_draw)  # else the workers of one service would give the same names

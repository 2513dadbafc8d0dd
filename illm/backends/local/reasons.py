"""Why loading failed, in words that a client may be told: no path of ours, and no more than a line."""

import re

_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][\w.\-+@]+){2,}[/\\]?")
_LONGEST = 200


def reason(error: BaseException) -> str:
    """Return an error's type and the first line of what it says, with `…` where paths were."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    line = _PATH.sub("…", line)
    if len(line) > _LONGEST:
        line = line[:_LONGEST] + "…"
    name = type(error).__name__
    return f"{name}: {line}" if line else name

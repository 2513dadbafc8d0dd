"""How many files and sockets this process may have open."""

import logging
from contextlib import suppress

logger = logging.getLogger("illm.server")

_MACOS_MOST = 10240
"""What macOS allows although it calls its hard limit infinite (`OPEN_MAX` of its `sys/syslimits.h`)."""


def raise_descriptor_limit() -> int | None:
    """Raise the soft limit to the hard one.

    The soft one is 1024 on most systems, for the sake of programs that use `select`, as no event loop here does.  A
    proxy needs two descriptors a request, so that some 500 at once would exhaust it.

    Returns:
        How many there may be now; None where the system has no such limit.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _MACOS_MOST):
        if soft != hard and (wanted == resource.RLIM_INFINITY or wanted > soft):
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                logger.debug("up to %d open files instead of %d", wanted, soft)
                return wanted
    return soft

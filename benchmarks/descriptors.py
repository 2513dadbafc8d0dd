"""Thousands of connections in one process need as many descriptors."""

import resource


def raise_limit() -> None:
    """Let this process have as many as the operator allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

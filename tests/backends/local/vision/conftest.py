"""One thread, as for the engine's own tests."""

from backends.local.engine.conftest import one_thread  # noqa: F401

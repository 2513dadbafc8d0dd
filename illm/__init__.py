"""One OpenAI-compatible HTTP service in front of five inference backends."""

from typing import TYPE_CHECKING, Any

__all__ = ["__version__", "create_app"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from illm.asgi.app import create_app


def __getattr__(name: str) -> Any:
    # Deferred, so that `import illm` costs nothing until the application is wanted.
    if name == "create_app":
        from illm.asgi.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Frozen for whoever checks types, and as cheap to make as any other object.

`dataclass(frozen=True)` makes instances through `object.__setattr__`, a call a field; a request and its answer have
dozens of fields.  So the type checker sees the frozen dataclass, and at run time nothing guards it (what that saves is
in docs/decisions.md).  Equality, hash and `dataclasses.replace` are those of a frozen one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(*, frozen: bool, **options: Any) -> Any:
        """Return a class decorator: see `dataclasses.dataclass`, and the module."""
        return dataclass(unsafe_hash=frozen, **options)


__all__ = ["value"]

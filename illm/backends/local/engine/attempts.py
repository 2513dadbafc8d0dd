"""What is done for one sequence by itself, between two forwards: where it fails, it fails for that sequence alone.

A grammar is a client's program and a text comes from the model, so what native code makes of them is nobody else's
misfortune: without this one panic of theirs would end everybody's answers.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from illm.backends.local.engine.sequence import LiveSequence

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Attempts:
    """The attempts of one step."""

    def __init__(self) -> None:
        self._failed: set[int] = set()

    def of(self, sequence: LiveSequence, act: Callable[[], _T]) -> _T | None:
        """Return what `act` returns; None where it raises, and from then on whatever else is tried for the sequence.

        Args:
            sequence: the one that `act` is about.
            act: changes nothing that others share.
        """
        if sequence.request.id in self._failed:
            return None
        try:
            return act()
        except BaseException as error:  # a panic in native code is no `Exception`
            self._failed.add(sequence.request.id)
            _log.error("a sequence cannot go on", exc_info=error)
            return None

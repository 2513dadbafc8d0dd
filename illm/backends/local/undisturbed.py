"""One thread at a time may have Transformers read a model, and it draws nothing meanwhile: what is shown is ours.

While it reads, Transformers changes itself for the whole process: it puts an empty function in place of
`PreTrainedModel.tie_weights`, moves torch's default dtype, patches initialisers, and afterwards puts back what it
found.  A second thread that reads at the same time finds the empty function, and puts that back last: no tied
weight of this process is ever tied again, and models that share their embedding lack a head.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# The state that it guards is the library's, and there is one in a process: two applications share the lock as well.
_READING = threading.Lock()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Wait for other threads that read models; inside, no progress bars; after it, whatever was set before."""
    with _READING:
        from transformers import modeling_gguf_pytorch_utils as gguf
        from transformers.utils import logging

        before = logging.is_progress_bar_enabled()
        # Its GGUF reader draws one bar past that switch.
        bar, gguf.tqdm = getattr(gguf, "tqdm", _plain), _plain
        logging.disable_progress_bar()
        try:
            yield
        finally:
            gguf.tqdm = bar
            if before:
                logging.enable_progress_bar()


def _plain(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    return items

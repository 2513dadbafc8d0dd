"""Keep the libraries' own progress bars off the terminal: what is shown there is ours."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, Transformers draws no progress bars; after it, whatever was set before."""
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

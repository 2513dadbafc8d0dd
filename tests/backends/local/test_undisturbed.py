import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

pytest.importorskip("torch")
import transformers
from transformers import initialization

from illm.backends.local.load import load_text
from illm.backends.local.sources import Source

pytestmark = pytest.mark.model


@pytest.fixture
def together(monkeypatch):
    """Who was at once where Transformers has changed itself; two that are leave in the order that does the harm."""
    original, met = initialization.no_tie_weights, []
    entered, first = threading.Barrier(2), threading.Event()

    @contextmanager
    def waiting():
        with original():
            try:
                met.append(entered.wait(0.5))
            except threading.BrokenBarrierError:  # nobody came
                yield
                return
            yield
            if met[-1] == 0:
                first.set()
            else:
                first.wait(5)

    monkeypatch.setattr(initialization, "no_tie_weights", waiting)
    return met


def test_two_threads_that_load_leave_the_tying_of_weights_as_it_was(tmp_path, tiny_llama, together):
    before = transformers.PreTrainedModel.tie_weights
    sources = [Source(name, tmp_path / name, "text") for name in "ab"]
    for source in sources:
        tiny_llama(source.directory)
    try:
        with ThreadPoolExecutor(2) as pool:
            texts = list(
                pool.map(lambda source: load_text(source, device="cpu", progress=lambda what, part: None), sources)
            )
        assert not together
        assert transformers.PreTrainedModel.tie_weights is before
        assert [text.served for text in texts] == ["a", "b"]
    finally:
        transformers.PreTrainedModel.tie_weights = before

"""One thread: for matrices this small more only wait for each other."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

"""Where torch could run a model on this machine."""

from collections.abc import Iterator


def devices() -> Iterator[tuple[str, str]]:
    """Yield each device as `--device` takes it, and a description."""
    import torch

    yield "cpu", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index}", torch.cuda.get_device_name(index)
    if torch.backends.mps.is_available():
        yield "mps", "Metal"

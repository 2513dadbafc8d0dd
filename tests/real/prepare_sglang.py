"""Runs in the environment of SGLang: puts in place what its wheels lack where there is no GPU.

The torchvision that goes with a CPU torch here has no compiled operators, and dies on import because it describes
operators that nobody defined: so they are declared first.  SGLang takes one rotary kernel from vLLM where its own
kernels are missing: so a module of that name does it in plain torch.
"""

import sysconfig
from pathlib import Path

OPERATORS = """\
import torch as _torch

_declared = _torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(_torch.ops.torchvision, _name):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

"""

ROTARY = '''\
"""One kernel, in plain torch: all that SGLang wants of vLLM on a CPU."""

import torch


def rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox: bool,
) -> None:
    """Rotate `query` and `key`, tokens first, in place; the cache holds cosines, then sines, by position."""
    positions = positions.flatten()
    cos, sin = cos_sin_cache[positions].float().unsqueeze(1).chunk(2, dim=-1)
    width = 2 * cos.shape[-1]
    for states in (query, key):
        if states is None:
            continue
        heads = states.view(positions.numel(), -1, head_size)
        turned = heads[..., :width].float()
        if is_neox:
            left, right = turned.chunk(2, dim=-1)
        else:
            left, right = turned[..., ::2], turned[..., 1::2]
        pair = (left * cos - right * sin, right * cos + left * sin)
        joined = torch.cat(pair, dim=-1) if is_neox else torch.stack(pair, dim=-1).flatten(-2)
        heads[..., :width] = joined.to(states.dtype)
'''


def main() -> None:
    """Patch torchvision, once, and add the module."""
    packages = Path(sysconfig.get_path("purelib"))
    start = packages / "torchvision" / "__init__.py"
    text = start.read_text()
    if not text.startswith(OPERATORS):
        start.write_text(OPERATORS + text)
    stand_in = packages / "vllm"
    stand_in.mkdir(exist_ok=True)
    (stand_in / "__init__.py").write_text("")
    (stand_in / "_custom_ops.py").write_text(ROTARY)


if __name__ == "__main__":
    main()

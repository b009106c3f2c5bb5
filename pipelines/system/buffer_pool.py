"""A pool of host memory: a block is used again once its last tensor is gone.

A batch of augmented views is tens of megabytes. The system takes such a block back when it is freed
and clears each page of the next one, which costs as much as cutting a crop.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_free: deque[NDArray[np.uint8]] = deque(maxlen=32)  # blocks to use again; the oldest makes way


def pooled_empty(shape: Sequence[int], dtype: torch.dtype, *, pin: bool = False) -> Tensor:
    """Return a host tensor with undefined values; its memory is reused after its last view.

    With ``pin`` it is page-locked, and PyTorch keeps the blocks.
    """
    if pin:
        return torch.empty(*shape, dtype=dtype, pin_memory=True)
    count = int(np.prod(shape))
    block = _block(max(count, 1) * dtype.itemsize)
    held = block[:]  # lives as long as the tensor's memory
    weakref.finalize(held, _free.append, block).atexit = False
    return torch.from_numpy(held).view(dtype)[:count].view(*shape)


def _block(size: int) -> NDArray[np.uint8]:
    """A block of just so many bytes: a free one, else a new one."""
    for _ in range(len(_free)):
        block = _free.popleft()
        if len(block) == size:
            return block
        _free.append(block)
    return torch.empty(size, dtype=torch.uint8).numpy()

"""A pool of host memory: a block is reused once its last tensor is gone.

A batch of augmented views is tens of megabytes. Without the pool, such a block goes back to the
operating system when it is freed, which clears each page of the next block. That costs as much as
cutting a crop.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_free: deque[NDArray[np.uint8]] = deque(maxlen=32)  # blocks to reuse; the oldest is dropped


def pooled_empty(shape: Sequence[int], dtype: torch.dtype, *, pin: bool = False) -> Tensor:
    """Return a host tensor with undefined values; its memory is reused after its last view.

    With ``pin`` it is page-locked, and PyTorch's allocator reuses the memory.
    """
    if pin:
        return torch.empty(*shape, dtype=dtype, pin_memory=True)
    count = int(np.prod(shape))
    block = _block(max(count, 1) * dtype.itemsize)
    held = block[:]  # lives as long as the tensor's memory
    weakref.finalize(held, _free.append, block).atexit = False
    return torch.from_numpy(held).view(dtype)[:count].view(*shape)


def _block(size: int) -> NDArray[np.uint8]:
    """Return a block of exactly ``size`` bytes: a free one, else a new one."""
    for _ in range(len(_free)):
        block = _free.popleft()
        if len(block) == size:
            return block
        _free.append(block)
    return torch.empty(size, dtype=torch.uint8).numpy()

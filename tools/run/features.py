"""Features of a whole data set, in row order, on every process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn


def extract(
    model: nn.Module,
    encode: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, NDArray[np.int64]]],
    num_rows: int,
    accelerator: Accelerator,
) -> Float[Tensor, "rows d"]:
    """Encode every row once and return all features in row order, float32, on the device.

    ``encode`` maps images (n, 3, h, w) to features (n, d) through ``model``, which is put in
    eval mode meanwhile; ``batches`` are this process's share of the rows, which may be empty
    (``pipelines.loader.evaluation_batches``). All processes must call this together.

    Raises:
        RuntimeError: the processes' batches do not hold each of the ``num_rows`` rows once.
    """
    features, rows = [], []
    with evaluating(model), torch.no_grad(), accelerator.autocast():
        for images, numbers in batches:
            features.append(encode(images).float())
            rows.append(torch.from_numpy(numbers))
    return _in_row_order(features, rows, num_rows, accelerator)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode; afterwards every module is in the mode it had before."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _in_row_order(
    features: list[Tensor], rows: list[Tensor], num_rows: int, accelerator: Accelerator
) -> Float[Tensor, "rows d"]:
    """Join the shares of all processes; a process without rows learns the width from the others."""
    device = accelerator.device
    index = torch.cat([torch.zeros(0, dtype=torch.int64), *rows]).to(device)
    width = features[0].shape[1] if features else 0
    shape = torch.tensor([[len(index), width]], device=device)
    longest, width = _gathered(shape, accelerator).amax(0).tolist()
    own = torch.cat([torch.zeros(0, width, device=device), *features])
    own = _gathered(_padded(own, longest, 0), accelerator)
    index = _gathered(_padded(index, longest, num_rows), accelerator)

    times = torch.zeros(num_rows + 1, dtype=torch.int64, device=device)
    times.index_add_(0, index, torch.ones_like(index))
    wrong = (times[:num_rows] != 1).nonzero()[:, 0].tolist()
    if wrong:
        raise RuntimeError(
            f"{len(wrong)} of {num_rows} rows did not come exactly once, first row {wrong[0]}"
        )
    joined = own.new_empty(num_rows + 1, width)  # the last row takes the padding
    joined[index] = own
    return joined[:num_rows]


def _gathered(tensor: Tensor, accelerator: Accelerator) -> Tensor:
    return accelerator.gather(tensor.contiguous())


def _padded(tensor: Tensor, length: int, value: int) -> Tensor:
    missing = tensor.new_full((length - len(tensor), *tensor.shape[1:]), value)
    return torch.cat((tensor, missing))

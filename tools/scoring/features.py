"""Extract the features of a whole data set, in row order, on every process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *HALF)


def on_gpu(features: Tensor) -> bool:
    """Whether features are on a GPU, whose memory a data set's may fill."""
    return features.is_cuda


def extract(
    model: nn.Module,
    encode: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, NDArray[np.int64]]],
    num_rows: int,
    accelerator: Accelerator,
    *,
    half: bool = False,
) -> Float[Tensor, "rows d"]:
    """Encode every row once and return all features in row order, float32, on the device.

    With ``half``, a GPU keeps features that ``encode`` returns in half precision as they are.
    The rows of other processes are 0 in this one's, so the sum over processes rounds nothing.

    ``encode`` maps images (n, 3, h, w) to features (n, d) through ``model``, which is in eval mode
    meanwhile. ``batches`` are this process's share of the rows, which may be empty
    (``pipelines.evaluation.evaluation_batches``). All processes must call it together.

    Raises:
        RuntimeError: the processes' batches do not hold each of the ``num_rows`` rows once.
    """
    device = accelerator.device
    joined: Tensor | None = None  # all rows; this process fills its own, the others add theirs
    times = torch.zeros(num_rows, dtype=torch.int64, device=device)
    with evaluating(model), torch.no_grad(), accelerator.autocast():
        for images, numbers in batches:
            features = encode(images)
            if not (half and on_gpu(features) and features.dtype in HALF):
                features = features.float()
            rows = torch.from_numpy(numbers).to(device)
            if joined is None:
                joined = features.new_zeros(num_rows, features.shape[1])
            joined[rows] = features
            times[rows] += 1
    own = [0, 0] if joined is None else [joined.shape[1], DTYPES.index(joined.dtype)]
    every = accelerator.gather(torch.tensor([own], device=device))
    width, kind = every.amax(0).tolist()  # a process may have no rows
    if joined is None:
        joined = torch.zeros(num_rows, width, dtype=DTYPES[kind], device=device)
    times = accelerator.reduce(times, "sum")
    wrong = (times != 1).nonzero()[:, 0].tolist()
    if wrong:
        raise RuntimeError(
            f"{len(wrong)} of {num_rows} rows did not come exactly once, first row {wrong[0]}"
        )
    if accelerator.num_processes > 1:
        dist.all_reduce(joined)  # in place, so that there is only one copy of the features
    return joined


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode; afterwards restore every module's mode."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training

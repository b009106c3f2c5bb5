"""Batch norm whose statistics do not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from models import distributed
from models.modules import batchnorm_group, batchnorm_sync
from models.modules.batchnorm_sync import NativeSyncNorm, SyncNorm
from models.settings.base import BnMode
from pipelines.system.device_path import DevicePath


class BatchNorm(_BatchNorm):
    """``nn.BatchNorm1d`` and ``2d`` with a choice of the rows that share training statistics.

    mode ``group``: every ``group_size`` consecutive rows share theirs ("split" batch norm), and the
    running statistics move towards the mean over the groups. mode ``sync``: the rows of all ranks
    share them. Evaluation and the names of parameters and buffers are those of ``nn.BatchNorm2d``.
    Statistics are computed in float32 or better. On a GPU ``batchnorm_group`` and
    ``batchnorm_sync`` have faster code, which is used where it has proved itself
    (``pipelines.system.device_path``) and knows the type and memory layout.
    """

    # Always set here: ``convert_batchnorm`` refuses norms without a moving average.
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        *,
        mode: BnMode,
        group_size: int,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine)
        self.mode = mode
        self.group_size = group_size
        self.act = nn.Identity() if after is None else after
        """Dropout and activation of timm's BatchNormAct2d, applied to the result."""

    @property
    def device_path(self) -> DevicePath | None:
        """The code for a GPU that this layer takes in training, if any."""
        if self.mode == "group":
            return batchnorm_group.GROUP_NORM
        return batchnorm_sync.SYNC_NORM if distributed.world_size() > 1 else None

    def forward(self, x: Float[Tensor, "n c *pixels"]) -> Float[Tensor, "n c *pixels"]:
        """Normalize each channel of (n, c) or (n, c, h, w)."""
        if not self.training:
            y = self._plain(x, self.running_mean, self.running_var, training=False)
        else:
            self.num_batches_tracked.add_(1)
            if self.mode == "group" and x.shape[0] != self.group_size:
                y = self._grouped(x)
            elif self.mode == "sync" and distributed.world_size() > 1:
                y = self._synced(x)
            else:
                y = self._plain(x, self.running_mean, self.running_var, momentum=self.momentum)
        activated: Tensor = self.act(y)
        return activated

    def extra_repr(self) -> str:
        """Add the mode to the printed description."""
        base: str = super().extra_repr()  # type: ignore[no-untyped-call,unused-ignore]
        return f"{base}, mode={self.mode}, group_size={self.group_size}"

    def _plain(
        self,
        x: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        training: bool = True,
        momentum: float = 0.0,
    ) -> Tensor:
        return F.batch_norm(x, mean, var, self.weight, self.bias, training, momentum, self.eps)

    def _grouped(self, x: Tensor) -> Tensor:
        if x.shape[0] % self.group_size:
            raise ValueError(
                f"{x.shape[0]} rows are not whole groups of {self.group_size}: "
                "choose --groups and --batch-size so that each process holds whole groups"
            )
        number = x.shape[0] // self.group_size
        if on_gpu(x) and batchnorm_group.fits(x, number) and batchnorm_group.proved(x.device):
            y, batch = batchnorm_group.group_norm(x, self.weight, self.bias, number, self.eps)
            self._track(*batch.unbind())
            return y
        groups = torch.split(x, self.group_size)
        # With momentum 1 the fused kernel writes a group's mean and variance into these rows.
        mean = self.running_mean.new_zeros(len(groups), self.num_features)
        var = torch.ones_like(mean)
        rows = zip(groups, mean, var, strict=True)
        y = torch.cat([self._plain(g, m, v, momentum=1.0) for g, m, v in rows])
        self._track(mean.mean(0), var.mean(0))
        return y

    def _synced(self, x: Tensor) -> Tensor:
        # torch.compile does not know PyTorch's own kernels, and fuses the plain code.
        native = on_gpu(x) and not torch.compiler.is_compiling() and batchnorm_sync.fits(x)
        if native and batchnorm_sync.SYNC_NORM.usable(x.device):
            running, numbers = (self.running_mean, self.running_var), (self.momentum, self.eps)
            fast: Tensor = NativeSyncNorm.apply(x, self.weight, self.bias, running, *numbers)
            return fast
        weight = x.new_ones(self.num_features) if self.weight is None else self.weight
        bias = x.new_zeros(self.num_features) if self.bias is None else self.bias
        normalized: tuple[Tensor, Tensor, Tensor] = SyncNorm.apply(x, weight, bias, self.eps)
        y, mean, var = normalized
        count = x.numel() // x.shape[1] * distributed.world_size()
        self._track(mean, var * (count / (count - 1)))
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        running = [self.running_mean, self.running_var]
        batch = [mean.to(running[0].dtype), var.to(running[1].dtype)]
        torch._foreach_lerp_(running, batch, self.momentum)  # one launch


def on_gpu(x: Tensor) -> bool:
    """Whether ``x`` is on a CUDA device; tests replace it."""
    return x.is_cuda


@contextmanager
def replay_running_stats(module: nn.Module, order: Sequence[int], number: int) -> Iterator[None]:
    """Let the running statistics end as if the forwards had run in ``order``.

    Run the forwards 0, 1, 2, ... one after the other, each inside this context with its ``number``.
    With ``order`` (0, 2, 1, 2), the running statistics are then those of forward 0, 2, 1 and 2
    again, although forward 2 is computed once. They are linear in the batch statistics, so only the
    weights of the forwards change; outputs and gradients do not.
    """
    scaled = []
    for norm in module.modules():
        if isinstance(norm, BatchNorm) and norm.training:
            share = _momenta(order, norm.momentum)[number] / norm.momentum
            buffers = (norm.running_mean, norm.running_var)
            scaled += [(buffer, buffer.clone(), share) for buffer in buffers]
    yield
    for buffer, before, share in scaled:
        # Through .data: autograd has saved the buffer for the backward, which does not read it.
        buffer.data.copy_(before.lerp_(buffer.data, share))


def _momenta(order: Sequence[int], momentum: float) -> list[float]:
    """Return a momentum for each forward, run once, with the same effect as running ``order``."""
    weights = [0.0] * (max(order) + 1)
    for after, number in enumerate(reversed(order)):
        weights[number] += momentum * (1 - momentum) ** after
    kept = [1 - sum(weights[number + 1 :]) for number in range(len(weights))]  # by later forwards
    return [weight / rest for weight, rest in zip(weights, kept, strict=True)]


def convert_batchnorm(module: nn.Module, mode: BnMode, group_size: int) -> nn.Module:
    """Replace each 1d, 2d and timm batch norm by a ``BatchNorm``, in place; return ``module``.

    Parameters and buffers are kept, and so is the activation of timm's BatchNormAct2d.

    Raises:
        ValueError: a batch norm has no moving average.
    """
    for name, child in module.named_children():
        setattr(module, name, convert_batchnorm(child, mode, group_size))
    if not isinstance(module, _BatchNorm) or isinstance(module, (BatchNorm, SyncBatchNorm)):
        return module
    mean, var, tracked = module.running_mean, module.running_var, module.num_batches_tracked
    if module.momentum is None or mean is None or var is None or tracked is None:
        raise ValueError(f"{module} has no moving average, so --bn does not apply to it")
    after = None
    if hasattr(module, "act"):
        after = nn.Sequential(*(m for m in (module.drop, module.act) if isinstance(m, nn.Module)))
    norm = BatchNorm(
        module.num_features,
        module.eps,
        module.momentum,
        module.affine,
        mode=mode,
        group_size=group_size,
        after=after,
    )
    norm.weight, norm.bias = module.weight, module.bias
    norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, var, tracked
    return norm.train(module.training)

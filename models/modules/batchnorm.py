"""Batch norm whose statistics do not depend on how many processes share the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from models import distributed
from models.settings import BnMode


class BatchNorm(_BatchNorm):
    """``nn.BatchNorm1d`` and ``2d`` with a say in which rows share statistics while training.

    mode ``group``: each run of ``group_size`` consecutive rows has its own ("split" batch norm);
    the running statistics move towards the mean over the groups. mode ``sync``: the rows of all
    ranks share them. Evaluation, parameter and buffer names are those of ``nn.BatchNorm2d``.
    Statistics are at least fp32.
    """

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
        """What timm's BatchNormAct2d does to the result: drop, then activation."""

    def forward(self, x: Float[Tensor, "n c *pixels"]) -> Float[Tensor, "n c *pixels"]:
        """Normalise each channel; shapes (n, c) and (n, c, h, w)."""
        if not self.training:
            y = self._plain(x, self.running_mean, self.running_var, training=False)
        else:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            if self.mode == "group" and x.shape[0] != self.group_size:
                y = self._grouped(x)
            elif self.mode == "sync" and distributed.world_size() > 1:
                y = self._synced(x)
            else:
                y = self._plain(x, self.running_mean, self.running_var, momentum=self.momentum)
        return self.act(y)

    def extra_repr(self) -> str:
        """Name the mode too."""
        return f"{super().extra_repr()}, mode={self.mode}, group_size={self.group_size}"

    def _plain(
        self,
        x: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        training: bool = True,
        momentum: float | None = 0.0,
    ) -> Tensor:
        assert momentum is not None
        return F.batch_norm(x, mean, var, self.weight, self.bias, training, momentum, self.eps)

    def _grouped(self, x: Tensor) -> Tensor:
        if x.shape[0] % self.group_size:
            raise ValueError(
                f"{x.shape[0]} rows are not whole groups of {self.group_size}: "
                "choose --groups and --batch-size so that each process holds whole groups"
            )
        assert self.running_mean is not None
        assert self.running_var is not None
        groups = x.split(self.group_size)
        # With momentum 1 the fused kernel leaves a group's own mean and variance in these rows.
        mean = self.running_mean.new_zeros(len(groups), self.num_features)
        var = torch.ones_like(mean)
        rows = zip(groups, mean, var, strict=True)
        y = torch.cat([self._plain(g, m, v, momentum=1.0) for g, m, v in rows])
        self._track(mean.mean(0), var.mean(0))
        return y

    def _synced(self, x: Tensor) -> Tensor:
        weight = x.new_ones(self.num_features) if self.weight is None else self.weight
        bias = x.new_zeros(self.num_features) if self.bias is None else self.bias
        y, mean, var = _SyncNorm.apply(x, weight, bias, self.eps)
        count = x.numel() // x.shape[1] * distributed.world_size()
        self._track(mean, var * (count / (count - 1)))
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)


class _SyncNorm(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` with the statistics of all ranks' rows.

    Each rank's mean and variance are gathered and joined (Chan et al. 1979), which is stable where
    sums of squares are not; the backward needs one sum over the ranks. Only ``x`` is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(wide, [0, *range(2, x.ndim)], correction=0)  # (c,)
        means, variances = distributed.gather(torch.stack([mean, var])[None]).unbind(
            1
        )  # (world, c)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        scale = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.mark_non_differentiable(mean, var)
        y = (wide - _as(mean, x)) * _as(scale * weight, x) + _as(bias, x)
        return y.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale = ctx.saved_tensors
        dims = [0, *range(2, x.ndim)]
        grad = grad.to(mean.dtype)
        normed = (x.to(mean.dtype) - _as(mean, x)) * _as(scale, x)
        d_bias = grad.sum(dims)
        d_weight = (grad * normed).sum(dims)
        total = distributed.all_reduce_sum(torch.stack([d_bias, d_weight]))
        total = total / (x.numel() // x.shape[1] * distributed.world_size())
        d_x = (grad - _as(total[0], x) - normed * _as(total[1], x)) * _as(scale * weight, x)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), d_bias.to(weight.dtype), None


def _as(channel: Tensor, x: Tensor) -> Tensor:
    """One number a channel, shaped to meet ``x`` (n, c, ...)."""
    return channel.view(1, -1, *[1] * (x.ndim - 2))


@contextmanager
def tracking(module: nn.Module, order: Sequence[int], number: int) -> Iterator[None]:
    """Weigh what the forward inside adds to the running statistics.

    Forwards 0, 1, 2, ..., one after the other and each inside with its ``number``, leave the
    running statistics that the forwards ``order`` would have left: (0, 2, 1, 2) is forward 0, 2, 1,
    and 2 again, of which the second one need not be computed. Running statistics are linear in the
    batches', so only weights change; outputs and gradients do not.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    scaled = []
    for norm in (norm for norm in norms if norm.training):
        assert norm.momentum is not None
        share = _momenta(order, norm.momentum)[number] / norm.momentum
        buffers = [b for b in (norm.running_mean, norm.running_var) if b is not None]
        scaled += [(buffer, buffer.clone(), share) for buffer in buffers]
    yield
    for buffer, before, share in scaled:
        # Through .data: the backward has saved the buffer, although it does not read it.
        buffer.data.copy_(before.lerp_(buffer.data, share))


def _momenta(order: Sequence[int], momentum: float) -> list[float]:
    """Return the momentum of each forward, made once, that leaves what ``order`` leaves."""
    weights = [0.0] * (max(order) + 1)
    for after, number in enumerate(reversed(order)):
        weights[number] += momentum * (1 - momentum) ** after
    kept = [1 - sum(weights[number + 1 :]) for number in range(len(weights))]  # by later forwards
    return [weight / rest for weight, rest in zip(weights, kept, strict=True)]


def convert_batchnorm(module: nn.Module, mode: BnMode, group_size: int) -> nn.Module:
    """Return ``module`` with each 1d, 2d and timm batch norm replaced by a ``BatchNorm``, in place.

    Parameters and buffers are handed over as they are; timm's BatchNormAct2d keeps its activation.
    """
    for name, child in module.named_children():
        setattr(module, name, convert_batchnorm(child, mode, group_size))
    plain = isinstance(module, _BatchNorm) and not isinstance(module, (BatchNorm, SyncBatchNorm))
    if not plain:
        return module
    assert isinstance(module, _BatchNorm)
    if module.momentum is None or not module.track_running_stats:
        raise ValueError(f"{module} keeps no moving average: --bn has no meaning for it")
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
    norm.running_mean, norm.running_var = module.running_mean, module.running_var
    norm.num_batches_tracked = module.num_batches_tracked
    return norm.train(module.training)

"""Settings of MoCo: ``--moco.*``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import DisallowNone

from models.settings.base import ClimTerms, Defaults, MethodConfig
from pipelines.ranges import Count, Positive, Range, Share, WholeNumber


@dataclass(frozen=True)
class MocoConfig(MethodConfig):
    """Momentum contrast."""

    replaces_clean = True
    supports_clim = True
    batch_coupling = ""
    defaults = Defaults(
        optimizer="momentum", lr_per_256=0.03, weight_decay=1e-4, views="moco-v2", bn="group"
    )

    dim: Count = 128
    """Length of queries and keys."""
    queue: WholeNumber = 65536
    """Number of keys kept as negatives."""
    momentum: Share = 0.999
    """EMA momentum of the key encoder (CIFAR: 0.99)."""
    temperature: Positive = 0.2
    """Softmax temperature (v1: 0.07; CIFAR: 0.1)."""
    mlp: bool = True
    """Head with a hidden layer (v2); off: one linear layer (v1)."""
    layers: Annotated[int, Range(2, 3)] = 2
    """Linear layers of the --moco.mlp head (3: asym-siam's, batch norm after the first)."""
    symmetric: bool = False
    """Use each view as query and as key; the loss is the sum of both halves."""
    batch_keys: DisallowNone[bool | None] = None
    """Contrast queries with all keys of the batch as well as the queue; None: for i-Mix only."""
    mix_each: bool = False
    """Symmetric: mix both views, for the other's keys; off: x0 alone, for its own keys as well."""

    @property
    def queries(self) -> tuple[int, ...]:
        """The query views."""
        return (0, 1) if self.symmetric else (0,)

    def filled(self, *, i_mix: bool) -> MocoConfig:
        """Return the numbers; with i-Mix the batch's keys are candidates, if that is open."""
        return self if self.batch_keys is not None else replace(self, batch_keys=i_mix)

    def describe_coupling(self) -> str:
        """Return what the batch's keys make of the loss; without them it has no coupling."""
        return "the batch's keys are those of a micro-batch" if self.batch_keys else ""

    def check(self, batch_size: int, clim: ClimTerms | None) -> None:
        """Refuse variants that exclude each other, and a queue that a step's keys overfill."""
        if self.layers == 3 and not self.mlp:
            raise ValueError("--moco.layers 3 needs a head with hidden layers: --moco.mlp")
        if self.mix_each and not self.symmetric:
            raise ValueError("--moco.mix-each needs --moco.symmetric")
        if clim and self.symmetric:
            raise ValueError("--mix clim is one-way and cannot go with --moco.symmetric")
        if clim and self.batch_keys:
            raise ValueError("--mix clim has candidates of its own: not with --moco.batch-keys")
        keys = self.keys_per_step(batch_size)
        if keys > self.queue:
            raise ValueError(
                f"--moco.queue {self.queue} is too small for the {keys} keys of a "
                "step: enlarge it or lower --batch-size (--moco.symmetric enqueues both views)"
            )

    def keys_per_step(self, batch_size: int) -> int:
        """Return the number of keys that enter the queue after a step."""
        return batch_size * len(self.queries)

"""Settings of SimCLR: ``--simclr.*``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tyro.conf import DisallowNone

from models.settings.base import Defaults, MethodConfig
from pipelines.ranges import Count, Positive, WholeNumber


@dataclass(frozen=True)
class SimclrConfig(MethodConfig):
    """Contrast of each view with all others of the batch."""

    replaces_clean = True
    batch_coupling = "NT-Xent's negatives are those of a micro-batch"
    defaults = Defaults(
        optimizer="lars",
        lr_per_256=0.3,
        weight_decay=1e-6,
        views="simclr",
        bn="sync",
        decay_norm_and_bias=False,
        warmup_epochs=10,
        zero_init_last=True,
    )

    dim: Count = 128
    """Length of the projection."""
    hidden: WholeNumber = 0
    """Width of the head's hidden layer; 0: that of the backbone's features."""
    temperature: Positive = 0.1
    """Softmax temperature (CIFAR: 0.5)."""
    n_pair: DisallowNone[bool | None] = None
    """N-pair loss: x0 against the rows of x1, one direction; None: for i-Mix only."""
    head_bn: bool = False
    """Batch norm after each of the head's linear layers, over both views of a pair at once."""
    last_bias: bool = True
    """Biases of the head's last linear layer and of the batch norm after it (ImageNet: off)."""

    def filled(self, *, i_mix: bool) -> SimclrConfig:
        """Return the numbers; with i-Mix the loss is N-pair, if that is open."""
        return self if self.n_pair is not None else replace(self, n_pair=i_mix)

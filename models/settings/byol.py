"""Settings of BYOL: ``--byol.*``."""

from __future__ import annotations

from dataclasses import dataclass

from models.settings.base import ClimTerms, Defaults, MethodConfig
from pipelines.ranges import Count, Share, WholeNumber


@dataclass(frozen=True)
class ByolConfig(MethodConfig):
    """Prediction of a slowly moving target network's projection."""

    replaces_clean = True
    supports_clim = True
    batch_coupling = ""
    defaults = Defaults(
        optimizer="lars",
        lr_per_256=0.2,
        weight_decay=1.5e-6,
        views="byol",
        bn="sync",
        decay_norm_and_bias=False,
        warmup_epochs=10,
        zero_init_last=True,
    )

    dim: Count = 256
    """Length of the projection."""
    hidden: WholeNumber = 4096
    """Hidden width of projector and predictor."""
    momentum: Share = 0.996
    """EMA momentum of the target network at the first step; it rises to 1 along a cosine."""
    mix_online: bool = False
    """Send the mixture through the online branch only (twice the weight); off: through both."""
    last_bias: bool = False
    """Bias of the last linear layer of projector and predictor (the Whitening code: on)."""

    @property
    def pasted_views(self) -> tuple[int, ...]:
        """Both views, which the online network sees pasted and the target network plain."""
        return (0, 1)

    def check(self, batch_size: int, clim: ClimTerms | None) -> None:
        """Refuse those of CLIM's losses that need more than targets from neighbors."""
        if clim and not self.mix_online:
            raise ValueError(
                "--mix clim needs --byol.mix-online: neighbors are targets, and the online branch "
                "makes no predictions from them"
            )
        if clim and (clim.mode == "csml" or clim.denominator == "shared"):
            raise ValueError("--clim.mode csml and --clim.denominator shared need --method moco")

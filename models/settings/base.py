"""What is known of every method without its module, and the names that settings can take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Which = Literal["online", "momentum"]
"""An encoder of a method: the trained one, or its momentum (EMA) copy."""
Distance = Literal["cosine", "euclidean"]
"""How near two feature rows are."""
Stem = Literal["auto", "small", "small-pool", "standard"]
StemInit = Literal["he", "pytorch"]
SMALL_IMAGE = 64
"""Images up to this many pixels a side get the small stem under ``auto``."""
BnMode = Literal["group", "sync"]
Schedule = Literal["cosine", "step", "constant"]
Reduce = Literal["mean", "sum-half"]
"""How the terms of queries at several sides make one loss."""
ClimMode = Literal["add", "replace", "csml"]
Denominator = Literal["separate", "shared"]
MixTerms = Literal["add", "replace"]
"""Whether the terms of mixtures are added to the clean term, or stand in its place."""


@dataclass(frozen=True)
class Defaults:
    """How a method's paper trains it; every number can be overridden by a flag."""

    optimizer: str
    """timm's name."""
    lr_per_256: float
    """Peak learning rate for each 256 images of the batch."""
    weight_decay: float
    views: str
    """Preset of the views."""
    bn: BnMode
    momentum: float = 0.9
    decay_norm_and_bias: bool = True
    schedule: Schedule = "cosine"
    warmup_epochs: int = 0
    final_lr_ratio: float = 0.0
    """Last learning rate as a share of the peak."""
    zero_init_last: bool = False
    """Whether each residual block starts as the identity, on images above 64 pixels."""
    weight_decay_end: float | None = None
    """Weight decay at the end of its cosine; None: it stays as it is."""


@dataclass(frozen=True)
class ClimTerms:
    """How CLIM's clean and mixed term make one loss; ``models.losses.clim`` defines the words."""

    mode: ClimMode = "add"
    weight: float = 1.0
    denominator: Denominator = "separate"


@dataclass(frozen=True)
class QuerySizes:
    """Which views are queries, at how many sides, and how their losses are reduced.

    ``mean``: ``1/R sum_r L_r``. ``sum-half``: ``(L_1 + L_2 + ... + L_R) / 2``.
    """

    queries: tuple[int, ...] = (0, 1)
    count: int = 1
    reduce: Reduce = "mean"

    def copies(self, num_views: int) -> dict[int, int]:
        """Map each further view's place, after ``num_views`` others, to the view it repeats."""
        again = self.queries * (self.count - 1)
        return {num_views + i: query for i, query in enumerate(again)}


@dataclass(frozen=True)
class MethodConfig:
    """The numbers of a method; class attributes are its traits, which no flag changes."""

    defaults: ClassVar[Defaults]
    transformer: ClassVar[Defaults | None] = None
    """Published training of ViTs; None: there is none (``models.settings.backbones``)."""
    min_views: ClassVar[int] = 2
    max_views: ClassVar[float] = 2
    """Fewest and most views of an image; ``math.inf``: no upper limit."""
    mixes_groups: ClassVar[bool] = True
    """Whether each group may draw its own mixture (``--mix-draw group``)."""
    needs_rgb: ClassVar[bool] = False
    """Whether its network takes red, green and blue images only."""
    supports_unmix: ClassVar[bool] = True
    """Whether it has a loss for mixtures; without one, it takes mixtures that keep the targets."""
    replaces_clean: ClassVar[bool] = False
    """Whether the terms of mixtures can stand in place of the clean one."""
    takes_mixed_keys: ClassVar[bool] = False
    """Whether it has a loss for mixtures that are keys of other mixtures (SDMP, PatchMix)."""
    supports_clim: ClassVar[bool] = False
    """Whether it has a loss for CLIM, whose partners are not rows of the batch."""
    batch_coupling: ClassVar[str] = "the loss looks at a micro-batch alone"
    """How micro-batches change the loss, in words; "": not at all (see ``describe_coupling``)."""

    @property
    def queries(self) -> tuple[int, ...]:
        """The query views; none for a method without a network of its own for keys."""
        return ()

    @property
    def needs_mutual_partners(self) -> bool:
        """Whether the loss is right only if a partner's partner is the row itself."""
        return False

    @property
    def pasted_views(self) -> tuple[int, ...]:
        """The views that ScaleMix changes: those whose targets another network makes, or one."""
        return self.queries or (0,)

    @property
    def row_unit(self) -> int:
        """A divisor that the number of all ranks' rows in a forward must have."""
        return 1

    def filled(self, *, i_mix: bool) -> MethodConfig:
        """Return the numbers with what is left open as published, with i-Mix or without."""
        return self

    def suited(self, backbone: str) -> MethodConfig:
        """Return the numbers with what is left open as published for this kind of backbone."""
        return self

    def describe_coupling(self) -> str:
        """Return how the loss depends on the other rows of a batch, in words; "": not at all.

        Micro-batches (``--accumulate``) change a loss that does.
        """
        return self.batch_coupling

    def check(self, batch_size: int, clim: ClimTerms | None) -> None:
        """Refuse numbers that do not fit each other, the batch, or CLIM's loss if there is one.

        Raises:
            ValueError: naming the flags.
        """

"""The settings of a run: the sections joined, as given and as resolved.

Order of precedence: flags, then ``--recipe FILE``, then the defaults of the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any

from models.methods import METHODS
from models.settings.base import BnMode, MixTerms, Schedule
from pipelines.ranges import check_ranges
from pipelines.settings import (
    I_MIX_NAMES,
    LABEL_FREE,
    ImConfig,
    IMixConfig,
    MixMaskConfig,
    PatchMixConfig,
    parts_of,
)
from tools.config.augment import AugConfig
from tools.config.clim import ClimConfig
from tools.config.images import ImageConfig
from tools.config.init import InitConfig
from tools.config.pixels import PixelConfig
from tools.config.remote import RemoteConfig
from tools.config.scores import ScoreConfig
from tools.config.sections import (
    SECTIONS,
    DataConfig,
    Decay,
    FaultConfig,
    LogConfig,
    MixConfig,
    ModelConfig,
    OptimConfig,
    Precision,
    PresetName,
    RunConfig,
    ViewConfig,
)
from tools.config.shards import ShardConfig
from tools.config.trackers import TrackerConfig


def numbers_of(method: str) -> str:
    """Return the name of the field that holds a method's numbers."""
    return method.replace("-", "_")


NUMBERS: dict[str, Any] = {
    "mixmask": MixMaskConfig(),
    "imix": IMixConfig(),
    "patchmix": PatchMixConfig(),
    "aug": AugConfig(),
    "clim": ClimConfig(),
    "im": ImConfig(),
    **{numbers_of(name): entry.settings() for name, entry in METHODS.items()},
}
"""The fields with numbers of the views, a mixture or a method, and their defaults."""
MIX_NUMBERS: dict[str, str] = {
    "mixmask": "mixmask",
    **dict.fromkeys(I_MIX_NAMES, "imix"),
    "patchmix": "patchmix",
    "clim": "clim",
    **dict.fromkeys(LABEL_FREE, "im"),
}
"""Mixtures with numbers of their own, and the names of the fields that hold them."""

if TYPE_CHECKING:

    @dataclass(frozen=True)
    class NumbersConfig:
        """A field for the numbers of the views, and of each mixture and method."""

        mixmask: MixMaskConfig = MixMaskConfig()
        imix: IMixConfig = IMixConfig()
        patchmix: PatchMixConfig = PatchMixConfig()
        aug: AugConfig = AugConfig()
        clim: ClimConfig = ClimConfig()
        im: ImConfig = ImConfig()
else:
    NumbersConfig = make_dataclass(
        "NumbersConfig",
        [(name, type(default), default) for name, default in NUMBERS.items()],
        frozen=True,
    )


@dataclass(frozen=True)
class Config(  # fields are listed from the last base to the first
    NumbersConfig,
    ScoreConfig,
    TrackerConfig,
    LogConfig,
    FaultConfig,
    OptimConfig,
    InitConfig,
    ModelConfig,
    MixConfig,
    ViewConfig,
    ShardConfig,
    PixelConfig,
    ImageConfig,
    RemoteConfig,
    DataConfig,
    RunConfig,
):
    """Learn an image representation without labels."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_ranges(self.chosen, f"{flag(self.method)}.")
        for mixture in sorted({*MIX_NUMBERS.values()}):
            check_ranges(getattr(self, mixture), f"--{mixture}.")
        self.aug.check()
        if "mixmask" in self.mixes:
            self.mixmask.check()
        for section in SECTIONS:
            section.check(self)

    @property
    def mixes(self) -> tuple[str, ...]:
        """The mixtures of ``mix``: one, or those of a sum."""
        return parts_of(self.mix)

    @property
    def chosen(self) -> Any:
        """The numbers of the chosen method, a ``MethodConfig``."""
        return getattr(self, numbers_of(self.method))


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(Config):
    """Settings in which nothing is left open; ``tools.config.resolve`` makes them."""

    views: PresetName
    image_size: int
    zero_init_last: bool
    freeze_patch_embed: bool
    bn: BnMode
    optimizer: str
    lr: float
    final_lr: float
    warmup_epochs: float
    schedule: Schedule
    weight_decay: float
    weight_decay_end: float
    decay: Decay
    momentum: float
    precision: Precision
    mix_terms: MixTerms


def flag(name: str) -> str:
    """Return a field's flag."""
    return "--" + name.replace("_", "-")


def chooses(owner: str) -> str:
    """Return the flag that makes a field's numbers count."""
    mixtures = [mix for mix, field in MIX_NUMBERS.items() if field == owner]
    return f"--mix {' or '.join(mixtures)}" if mixtures else f"--method {flag(owner)[2:]}"

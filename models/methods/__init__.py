"""The methods by name. A new one is a file, its settings, and a line in ``METHODS``.

Importing this imports no torch: the registry names a method's class, ``Entry.method`` imports it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.settings.barlow import BarlowConfig
from models.settings.base import ClimTerms, Defaults, MethodConfig
from models.settings.byol import ByolConfig
from models.settings.cmc import CmcConfig
from models.settings.dino import DinoConfig
from models.settings.insdis import InsdisConfig
from models.settings.moco import MocoConfig
from models.settings.moco_v3 import MocoV3Config
from models.settings.simclr import SimclrConfig
from models.settings.simsiam import SimsiamConfig
from models.settings.swav import SwavConfig
from models.settings.vicreg import VicregConfig
from models.settings.wmse import WmseConfig

if TYPE_CHECKING:
    from models.methods.base import Method, Setup
    from models.methods.build import build_method


@dataclass(frozen=True)
class Entry:
    """A registered method: where its class is (``module:class``), and the class of its settings."""

    path: str
    settings: type[MethodConfig]

    @property
    def method(self) -> type[Method]:
        """The method's class, imported when it is first asked for."""
        module, _, name = self.path.partition(":")
        found: type[Method] = getattr(import_module(module), name)
        return found


METHODS: dict[str, Entry] = {
    "moco": Entry("models.methods.moco:Moco", MocoConfig),
    "simclr": Entry("models.methods.simclr:Simclr", SimclrConfig),
    "byol": Entry("models.methods.byol:Byol", ByolConfig),
    "swav": Entry("models.methods.swav:Swav", SwavConfig),
    "simsiam": Entry("models.methods.simsiam:Simsiam", SimsiamConfig),
    "barlow": Entry("models.methods.barlow:Barlow", BarlowConfig),
    "vicreg": Entry("models.methods.vicreg:Vicreg", VicregConfig),
    "moco-v3": Entry("models.methods.moco_v3:MocoV3", MocoV3Config),
    "dino": Entry("models.methods.dino:Dino", DinoConfig),
    "wmse": Entry("models.methods.wmse:Wmse", WmseConfig),
    "cmc": Entry("models.methods.cmc:Cmc", CmcConfig),
    "insdis": Entry("models.methods.insdis:Insdis", InsdisConfig),
}


def check_method(
    name: str,
    config: MethodConfig,
    num_views: int,
    batch_size: int,
    clim: ClimTerms | None,
    num_sides: int,
) -> None:
    """Refuse what a method cannot do, and numbers that do not fit it.

    Args:
        name: a key of ``METHODS``.
        config: that method's settings.
        num_views: views of each image.
        batch_size: images of a step over all ranks and micro-batches.
        clim: CLIM's loss, if batches hold neighbors.
        num_sides: sides at which queries are shown.

    Raises:
        ValueError: the text names the flag.
    """
    least, most = config.min_views, config.max_views
    if not least <= num_views <= most:
        several = f"at least {least}" if math.isinf(most) else f"{least} to {most}"
        others = [
            key
            for key, each in METHODS.items()
            if each.settings.min_views <= num_views <= each.settings.max_views
        ]
        shown = "1 view" if num_views == 1 else f"{num_views} views"
        raise ValueError(
            f"--method {name} cannot take {shown} (--crops): "
            f"{f'exactly {least}' if least == most else several}"
            f"{'; these methods can: ' if others else ''}{', '.join(others)}"
        )
    if clim and not config.supports_clim:
        able = ", ".join(key for key, each in METHODS.items() if each.settings.supports_clim)
        raise ValueError(
            f"--mix clim cannot go with --method {name}: a neighbour is only a key, which needs a "
            f"loss that compares a query with one key after another ({able})"
        )
    if num_sides > 1 and not config.queries:
        raise ValueError(
            f"--resolutions cannot go with --method {name}: it shows queries at several sides to "
            "keys of another network, and this method has none"
        )
    config.check(batch_size, clim)


__all__ = ["METHODS", "Defaults", "Entry", "Method", "Setup", "build_method", "check_method"]
_LAZY = {"Method": "base", "Setup": "base", "build_method": "build"}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)

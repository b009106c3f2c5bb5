"""The methods by name. A new one is a file, its settings, and a line in ``METHODS``.

Importing this imports no torch: the registry names a method's class, ``Entry.method`` imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.settings import (
    BarlowConfig,
    ByolConfig,
    CmcConfig,
    Defaults,
    DinoConfig,
    InsdisConfig,
    MethodConfig,
    MocoConfig,
    MocoV3Config,
    SimclrConfig,
    SimsiamConfig,
    SwavConfig,
    VicregConfig,
    WmseConfig,
)

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

__all__ = ["METHODS", "Defaults", "Entry", "Method", "Setup", "build_method"]
_LAZY = {"Method": "base", "Setup": "base", "build_method": "build"}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)

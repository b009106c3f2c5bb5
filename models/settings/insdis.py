"""Settings of InsDis: ``--insdis.*``."""

from __future__ import annotations

from dataclasses import dataclass

from models.settings.bank import BankConfig
from models.settings.base import Defaults


@dataclass(frozen=True)
class InsdisConfig(BankConfig):
    """Each image told from the others by its row in a memory bank."""

    min_views = max_views = 1
    supports_unmix = False
    defaults = Defaults("momentum", 0.06, 1e-4, "insdis", "group", schedule="step")

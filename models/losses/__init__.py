"""Losses as pure functions of rows: one value per row, no process group, at least fp32.

The mean over rows is taken once, by the method; that is what lets a mixture weight rows. Where a
loss looks across the batch, the rows of all ranks are passed in (``all_*``) with the place of each
local row among them (``position``).
"""

from models.losses.assignment import log_assignment, sinkhorn, swav
from models.losses.common import cosine_gap, full_precision, on_mixture, scores, unit
from models.losses.contrastive import info_nce, log_negatives, nt_xent, nt_xent_on_mixture

__all__ = [
    "cosine_gap",
    "full_precision",
    "info_nce",
    "log_assignment",
    "log_negatives",
    "nt_xent",
    "nt_xent_on_mixture",
    "on_mixture",
    "scores",
    "sinkhorn",
    "swav",
    "unit",
]

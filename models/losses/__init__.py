"""Loss functions of rows: pure, without a process group, in float32 or better.

A loss returns one value per row, and the method takes the mean; this lets a mixture weight rows. A
loss that looks across the batch is given the rows of all ranks (``all_*``) and the positions of the
local rows among them (``position``).

Losses that several methods use are here; the loss of a single method is in that method's file.
"""

from models.losses.assignment import cross_entropy, log_assignment
from models.losses.common import cosine_gap, full_precision, on_mixture, scores, unit, widen
from models.losses.contrastive import info_nce, info_nce_against, log_negatives

__all__ = [
    "cosine_gap",
    "cross_entropy",
    "full_precision",
    "info_nce",
    "info_nce_against",
    "log_assignment",
    "log_negatives",
    "on_mixture",
    "scores",
    "unit",
    "widen",
]

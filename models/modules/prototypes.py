"""SwAV's prototypes: directions that rows are assigned to. Caron 2020, 2006.09882."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models import losses
from models.distributed import gather, own_rows
from models.modules.queue import Queue


class Prototypes(nn.Module):
    """``count`` learnt unit rows of length ``dim``; ``normalise`` after each change keeps them so.

    ``temperature`` is that of predictions; ``epsilon`` and ``iterations`` are Sinkhorn's.
    """

    def __init__(
        self, count: int, dim: int, temperature: float, epsilon: float, iterations: int
    ) -> None:
        super().__init__()
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.weight = nn.Linear(dim, count, bias=False).weight
        self.normalise()

    def scores(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the cosines of unit rows with the prototypes."""
        return losses.scores(z, self.weight)

    def log_p(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the log of the rows' predicted assignments."""
        return losses.log_assignment(self.scores(z), self.temperature)

    @torch.no_grad()
    def code(self, z: Float[Tensor, "n d"], view: int, queue: Queue | None) -> Tensor:
        """Return this rank's codes of rows ``z``, (n, k), balanced over all ranks' rows.

        A queue that is full, of rows of view 0 | view 1, takes part in the balance.
        """
        scores = self.scores(gather(z))
        if queue is not None:
            earlier = self.scores(queue.rows.chunk(2, 1)[view])
            scores = torch.cat([scores, torch.where(queue.filled, earlier, -torch.inf)])
        codes = losses.sinkhorn(scores, self.epsilon, self.iterations)
        return codes[own_rows(len(z), z.device)]

    @torch.no_grad()
    def normalise(self) -> None:
        """Put the prototypes on the sphere."""
        self.weight.copy_(losses.unit(self.weight))

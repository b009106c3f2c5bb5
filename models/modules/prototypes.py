"""SwAV's prototypes and its Sinkhorn codes. Caron 2020, 2006.09882."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models import losses
from models.distributed import gather, own_rows
from models.losses.common import full_precision
from models.modules.queue import Queue


class Prototypes(nn.Module):
    """``count`` learnable unit rows of length ``dim``; call ``normalize`` after each update.

    ``temperature`` is that of the predictions; ``epsilon`` and ``iterations`` are Sinkhorn's.
    """

    def __init__(
        self, count: int, dim: int, temperature: float, epsilon: float, iterations: int
    ) -> None:
        super().__init__()
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.weight = nn.Linear(dim, count, bias=False).weight
        self.normalize()

    def scores(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the cosines of unit rows with the prototypes."""
        return losses.scores(z, self.weight)

    def log_p(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return the logarithm of the rows' predicted assignments."""
        return losses.log_assignment(self.scores(z), self.temperature)

    @torch.no_grad()
    def code(self, z: Float[Tensor, "n d"], view: int, queue: Queue | None) -> Tensor:
        """Return the codes of this rank's rows ``z``, (n, k), balanced over all ranks' rows.

        Rows of a full queue take part in the balance. A queue's row holds the embeddings of view 0
        and of view 1, side by side.
        """
        scores = self.scores(gather(z))
        if queue is not None:
            earlier = self.scores(queue.rows.chunk(2, 1)[view])
            scores = torch.cat([scores, torch.where(queue.filled, earlier, -torch.inf)])
        codes = sinkhorn(scores, self.epsilon, self.iterations)
        return codes[own_rows(len(z), z.device)]

    @torch.no_grad()
    def normalize(self) -> None:
        """Scale the prototypes to unit length, in place."""
        self.weight.copy_(losses.unit(self.weight))


@torch.no_grad()
@full_precision
def sinkhorn(scores: Float[Tensor, "n k"], epsilon: float, iterations: int) -> Float[Tensor, "n k"]:
    """Return codes: rows that sum to 1, while the columns have (nearly) equal sums.

    Start from ``exp(scores / epsilon)``; each iteration divides the columns by their sums, then the
    rows by theirs. A row of -inf is left out: its code is 0. Source: Caron 2020, 2006.09882, eq. 5
    (Cuturi 2013).

    >>> sinkhorn(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), epsilon=0.5, iterations=1)
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    tiny = torch.finfo(scores.dtype).tiny
    codes = ((scores - scores.max()) / epsilon).exp()
    for _ in range(iterations):
        codes = codes / codes.sum(0, keepdim=True).clamp_min(tiny)
        codes = codes / codes.sum(1, keepdim=True).clamp_min(tiny)
    return codes

"""From settings to the sampler of a run: which rows each step holds."""

from __future__ import annotations

from pipelines.balance import balance_of
from pipelines.sampler import BlockShuffle, Sampler
from pipelines.sources.table import Table
from tools.config.config import Config


def build_sampler(
    config: Config,
    train: Table,
    rank: int = 0,
    world_size: int = 1,
    *,
    unconverted: Table | None = None,
) -> Sampler:
    """Return the sampler of a process's rows in each step.

    ``unconverted`` is the table from which a decoder's was made; it has the names of the files.

    Raises:
        ValueError: the batch does not fit the images, or ``--balance`` has no weight for each.
    """
    blocks = balance = None
    if config.order == "blocks":
        sequence = train.in_file_order()
        blocks = BlockShuffle(sequence, config.groups, config.block_rows, config.window_blocks)
    if config.balance is not None:
        listed = train if unconverted is None else unconverted
        balance = balance_of(config.balance, listed.label, listed.source)
    rows, batch = len(train), config.batch_size
    return Sampler(rows, batch, config.seed, rank, world_size, blocks, balance)

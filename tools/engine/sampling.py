"""From settings to the sampler of a run: which rows each step holds."""

from __future__ import annotations

from functools import partial

from pipelines.balance import balance_of
from pipelines.sampler import BlockShuffle, Sampler
from pipelines.sources.part_weights import part_weights
from pipelines.sources.table import Table
from pipelines.system.units import counted
from tools.config.advice import fitting_batch
from tools.config.config import Config, ResolvedConfig
from tools.config.resolve import fits
from tools.config.sharing import largest_batch


def refuse_large_batch(config: ResolvedConfig, num_rows: int, processes: int) -> None:
    """Refuse a batch that the images do not fill.

    Raises:
        ValueError: naming a size that fits the images and the other settings, if there is one.
    """
    if config.batch_size <= num_rows:
        return
    fitting = fitting_batch(config, num_rows, processes) or largest_batch(
        config, num_rows, processes * config.accumulate, partial(fits, processes)
    )
    way = f"--batch-size {fitting} would fit"
    if fitting is None:
        by = f"--groups {config.groups} divides"
        if processes > 1:
            by = f"--groups {config.groups} and the {processes} processes divide"
        way = f"at most {num_rows} fit, in a size that {by}"
    raise ValueError(
        f"--batch-size {config.batch_size} does not fit a data set of "
        f"{counted(num_rows, 'image')}: {way}"
    )


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
        ValueError: the batch does not fit the images, or ``--balance`` or ``--data-weights`` have
            no weight for each.
    """
    blocks = balance = None
    if config.order == "blocks":
        sequence = train.in_file_order()
        blocks = BlockShuffle(sequence, config.groups, config.block_rows, config.window_blocks)
    if config.balance is not None:
        listed = train if unconverted is None else unconverted
        balance = balance_of(config.balance, listed.label, listed.source)
    elif config.data_weights:
        balance = part_weights(train, config.data_weights)
    rows, batch = len(train), config.batch_size
    return Sampler(rows, batch, config.seed, rank, world_size, blocks, balance)

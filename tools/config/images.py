"""What image files of any kind become: ``--background``, ``--depth-range``, ``--pages``."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.ranges import Count, Finite
from pipelines.sources.beton import Beton
from pipelines.sources.image_file import MAX_PIXELS, ImageRules
from pipelines.sources.joined import sources_of
from pipelines.sources.table import Table
from tools.config.section import Section

if TYPE_CHECKING:
    from tools.config.config import Config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageConfig(Section):
    """What image files of any kind become (docs/images.md has the table)."""

    title = "formats"
    background: str = "white"
    """Colour behind transparent pixels: white, black or #rrggbb."""
    depth_range: tuple[Finite, Finite] | None = None
    """Samples that become 0 and 255 where over 8 bits declare no range; None: the set's own."""
    pages: Literal["first", "all"] = "first"
    """Page or frame of a TIFF, GIF or WebP that is a row: the first, or each."""
    max_pixels: Count = MAX_PIXELS
    """Larger images are refused; raise it only for files that you trust."""

    def check(self) -> None:
        """Refuse what ``ImageRules`` refuses."""
        ImageRules(self.background, self.depth_range, self.pages, max_pixels=self.max_pixels)


def image_rules(config: Config) -> ImageRules:
    """Return what the image files of a run become."""
    return ImageRules(
        config.background, config.depth_range, config.pages, config.in_chans, config.max_pixels
    )


def with_measured_range(config: Config, train: Table) -> Config:
    """Return settings that keep the range measured in the training images.

    Other images are then scaled as the training images were. A set that mixes integers and floats
    has two ranges, which are not kept: they are measured again.
    """
    rules = train.source.rules
    found = [limits for limits in (rules.int_range, rules.float_range) if limits is not None]
    if config.depth_range is not None or len(found) != 1:
        return config
    return dataclasses.replace(config, depth_range=found[0])


def warn_of_late_rules(table: Table, rules: ImageRules, spec: str) -> None:
    """Warn of flags that change nothing in a .beton, whose pixels were fixed by its writer."""
    for source in sources_of(table.source):
        if isinstance(source, Beton):
            written, where = source.rules, spec if source is table.source else source.file.title
            for flag, now, before in (
                ("--background", rules.background, written.background),
                ("--pages", rules.pages, written.pages),
            ):
                if now not in (before, "white", "first"):
                    log.warning(
                        "%s was written with %s %s: %s needs tools/write_ffcv.py %s %s", where,
                        flag, before, f"{flag} {now}", flag, now,
                    )  # fmt: skip


def warn_of_other_range(train: Table, val: Table, name: str) -> None:
    """Warn if validation images were scaled otherwise than the training images, in a .beton."""
    ours, theirs = train.source.rules, val.source.rules
    for before, now in ((ours.int_range, theirs.int_range), (ours.float_range, theirs.float_range)):
        if now is not None and before is not None and now != before:
            log.warning(
                "--val-data %s was scaled from %g to %g, the training images from %g to %g: write "
                "it again with tools/write_ffcv.py --depth-range %g %g", name, *now, *before,
                *before,
            )  # fmt: skip

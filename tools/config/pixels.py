"""Channels and normalisation of the images, and their constants for a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.data_facts import DataFacts, channel_facts, data_facts
from pipelines.ranges import Count, Positive, Share
from tools.config.section import Section

if TYPE_CHECKING:
    from tools.config.config import Config


@dataclass(frozen=True)
class PixelConfig(Section):
    """Channels of the images, and the numbers that normalise them."""

    title = "pixels"
    in_chans: Count = 3
    """Channels of the images: 1 (gray), 3 (RGB), or the number of bands of multi-band files."""
    normalize: Literal["published", "data"] = "published"
    """Mean and std: the data set's published ones (folders: ImageNet's), or measured once."""
    mean: tuple[Share, ...] = ()
    """Mean of each channel, of pixels in [0, 1]; goes before --normalize."""
    std: tuple[Positive, ...] = ()
    """Standard deviation of each channel, of pixels in [0, 1]."""

    def check(self) -> None:
        """Refuse one of --mean and --std without the other, or another number of values."""
        if bool(self.mean) != bool(self.std):
            given, lacks = ("--mean", "--std") if self.mean else ("--std", "--mean")
            raise ValueError(f"{given} needs {lacks}: both have a value for each channel")
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            if values and len(values) != self.in_chans:
                raise ValueError(
                    f"{name} has {len(values)} values, and the images have {self.in_chans} "
                    "channels (--in-chans): give one value for each channel"
                )


def facts_of(config: Config) -> DataFacts:
    """Return the constants of a run's training images, with the run's mean and deviation.

    With ``--normalize data`` they are empty until they have been measured.

    Raises:
        ValueError: no mean is published for this number of channels; the text names the flags.
    """
    facts = data_facts(config.data)
    if config.mean:
        return dataclasses.replace(facts, mean=config.mean, std=config.std)
    if config.normalize == "data":
        return dataclasses.replace(facts, mean=(), std=())
    try:
        return channel_facts(facts, config.in_chans)
    except ValueError as error:
        raise ValueError(
            f"--in-chans {config.in_chans}: {error}; measure them with --normalize data, or give "
            "--mean and --std"
        ) from error


def check_channels(config: Config) -> None:
    """Refuse a number of channels that the method cannot take.

    Raises:
        ValueError: naming the flags.
    """
    if config.in_chans != 3 and config.chosen.needs_rgb:
        raise ValueError(
            f"--in-chans {config.in_chans}: --method {config.method} splits red, green and blue "
            "into lightness and colour, so it needs --in-chans 3; every other method takes any "
            "number of channels"
        )


def describe_channels(config: Config) -> str:
    """Return what other channels than RGB change, in a sentence; "" for RGB."""
    if config.in_chans == 3:
        return ""
    colors = {
        1: "brightness, contrast and solarization act on gray; saturation, hue and grayscale do "
        "nothing",
        2: "crops, flips and blur act on both channels; colour jitter, grayscale and solarization "
        "are off",
    }
    many = (
        "crops, flips and blur act on all channels; colour jitter, grayscale and solarization act "
        "on the first three"
    )
    return f"--in-chans {config.in_chans}: {colors.get(config.in_chans, many)}"

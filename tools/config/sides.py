"""The sides that a run's views ever have, and the flags that ask for them; imports no torch."""

from __future__ import annotations

from pipelines.resolution import Progressive
from tools.config.config import ResolvedConfig
from tools.config.view_plan import base_views, resolution_of


def sides_of(config: ResolvedConfig, steps_per_epoch: int) -> dict[int, str]:
    """Return each side in pixels that a view has in some step, with the flag that asks for it."""
    sides = {config.image_size: f"--image-size {config.image_size}"}  # evaluation shows it as well
    for view in base_views(config):
        flag = "--crop-sizes" if config.crops else f"--views {config.views}"
        sides.setdefault(view.size, flag)
    for side in config.resolutions:
        sides.setdefault(side, "--resolutions")
    for side in config.multi_scale:
        sides.setdefault(side, "--multi-scale")
    resolution = resolution_of(config, steps_per_epoch)
    if isinstance(resolution, Progressive):
        for epoch in range(config.epochs):
            sides.setdefault(resolution.side(epoch * steps_per_epoch), "--resolution-schedule")
    return sides

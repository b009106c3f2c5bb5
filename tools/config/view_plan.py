"""From resolved settings to the views of a run; imports no torch."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from models.settings.base import QuerySizes
from pipelines.presets import PRESETS
from pipelines.resolution import MultiScale, Progressive, Resolution, parse_schedule
from pipelines.settings import CROPMIX, SOFT_TARGET_NAMES
from pipelines.views import View, ViewPlan, with_side
from tools.config.config import Config, ResolvedConfig, flag

if TYPE_CHECKING:
    from models.methods import Method


def views_of(config: ResolvedConfig) -> tuple[View, ...]:
    """Return the views of resolved settings, the largest with the largest side they ever have.

    Raises:
        ValueError: the largest views would at times be smaller than others.
    """
    views = base_views(config)
    again = sizes_of(config).copies(len(views)) if config.resolutions else {}
    sides = [side for side in config.resolutions[1:] for _ in sizes_of(config).queries]
    copies = zip(again.values(), sides, strict=True)
    views += tuple(dataclasses.replace(views[v], size=side) for v, side in copies)
    resolution = resolution_of(config, 1)
    if resolution is None:
        return views
    least, most = resolution.sides
    smaller = sorted({view.size for view in views})[:-1]
    if smaller and least < smaller[-1]:
        raise ValueError(
            f"{flag('multi_scale' if config.multi_scale else 'resolution_schedule')}: the largest "
            f"views would have {least} pixels, fewer than the {smaller[-1]} of smaller ones"
        )
    return with_side(views, most)


def sizes_of(config: ResolvedConfig) -> QuerySizes:
    """Return the sides at which queries are shown."""
    queries = config.chosen.queries
    return QuerySizes(queries, max(len(config.resolutions), 1), config.resolution_reduce)


def copies_of(config: ResolvedConfig) -> dict[int, int]:
    """Return which views show another one again at another side."""
    return sizes_of(config).copies(len(base_views(config)))


def mixed_of(config: ResolvedConfig, method: Method) -> tuple[int, ...]:
    """Return the views that are mixed, each before its copies at other sides."""
    if not {*config.mixes} & {*SOFT_TARGET_NAMES, "clim"}:
        return ()
    base = method.mixed_views(len(base_views(config)))
    return (*base, *(v for v, of in copies_of(config).items() if of in base))


def resolution_of(config: ResolvedConfig, steps_per_epoch: int) -> Resolution | None:
    """Return the side of the largest views as a function of the step, if it changes."""
    if config.resolution_schedule is not None:
        first, last = parse_schedule(config.resolution_schedule)
        return Progressive(first, last, config.epochs, steps_per_epoch)
    return MultiScale(config.multi_scale, config.seed) if config.multi_scale else None


def base_views(config: ResolvedConfig) -> tuple[View, ...]:
    """Return the preset's views, or as many as ``--crops`` asks for, with the numbers of --aug.

    Raises:
        ValueError: ``--aug`` does not fit the views.
    """
    views = config.aug.applied(_counted_views(config))
    return _cropmix_views(config, views) if "cropmix" in config.mixes else views


def _cropmix_views(config: ResolvedConfig, views: tuple[View, ...]) -> tuple[View, ...]:
    """Return the views with CropMix's areas, which no flag gives those that it changes."""
    pasted, published = config.chosen.pasted_views, _counted_views(config)
    low, high = CROPMIX[0]
    for v in pasted:
        if views[v].scale != published[v].scale:
            raise ValueError(
                f"--mix cropmix crops view {v} at {low:g} to {high:g} of the area: leave it out of "
                "--aug, or take --mix scalemix, which keeps the view's own areas"
            )
    return tuple(
        dataclasses.replace(x, scale=CROPMIX[0]) if v in pasted else x for v, x in enumerate(views)
    )


def _counted_views(config: ResolvedConfig) -> tuple[View, ...]:
    preset = PRESETS[config.views](config.image_size)
    if not config.crops:
        return preset
    if config.aug.scale is not None:
        raise ValueError(
            "--aug.scale would give the --crops of all sizes one scale: use --crop-scales, or "
            "--aug.views 0-1.scale=0.2,1 for single views"
        )
    views: list[View] = []
    scales = list(zip(config.crop_scales[::2], config.crop_scales[1::2], strict=True))
    for count, size, scale in zip(config.crops, config.crop_sizes, scales, strict=True):
        for _ in range(count):
            base = preset[len(views) % len(preset)]
            views.append(dataclasses.replace(base, size=size, scale=scale))
    return tuple(views)


def published_crops(config: Config, size: int, preset: str) -> dict[str, tuple[float, ...]]:
    """Return the sizes and scales of ``--crops`` that are given alone; empty: nothing is to fill.

    One count keeps the preset's scale. The second of two is SwAV's small crops (Caron 2020,
    arXiv:2006.09882): 96 of 224 pixels, and 0.05 to 0.14 of the area.
    """
    if not config.crops or config.crop_sizes:
        return {}
    if len(config.crops) == 1:
        return {"crop_sizes": (size,), "crop_scales": PRESETS[preset](size)[0].scale}
    large, *_, small = PRESETS["swav"](size)
    scales = (*large.scale, *small.scale)
    return {"crop_sizes": (large.size, small.size), "crop_scales": scales}


def fit_crops(config: ResolvedConfig, patch: int) -> ResolvedConfig:
    """Return the settings with the sides of all crops rounded to whole patches.

    The crops of a preset become those of ``--crops``, with the same views otherwise.
    """
    if config.crops:
        counts, scales = config.crops, config.crop_scales
        sizes = config.crop_sizes
    else:
        groups = Counter(
            (view.size, view.scale) for view in PRESETS[config.views](config.image_size)
        )
        counts, sizes = tuple(groups.values()), tuple(size for size, _ in groups)
        scales = tuple(share for _, scale in groups for share in scale)
    whole = tuple(whole_patches(size, patch) for size in sizes)
    return dataclasses.replace(config, crops=counts, crop_sizes=whole, crop_scales=scales)


def whole_patches(side: int, patch: int) -> int:
    """Return the multiple of ``patch`` nearest to ``side``, at least one; both in pixels."""
    return max(round(side / patch), 1) * patch


def crops_as_flags(config: Config) -> str:
    """Return the flags of ``--crops``, with their sizes and scales."""
    named = {name: getattr(config, name) for name in ("crops", "crop_sizes", "crop_scales")}
    return " ".join(
        f"{flag(name)} {' '.join(f'{value:g}' for value in values)}"
        for name, values in named.items()
    )


def describe_crops(given: Config, config: ResolvedConfig) -> list[str]:
    """Return a line on small crops that are not those of the preset, but whole patches."""
    if given.crop_sizes or not config.crop_sizes:
        return []
    kind = config.views if not given.crops else "swav"
    published = PRESETS[kind](config.image_size)[-1].size
    if len(config.crop_sizes) == 1 or config.crop_sizes[-1] == published:
        return []
    return [
        f"the small crops have {config.crop_sizes[-1]} pixels, not the published {published}, so "
        f"that they are whole patches of {config.backbone}: {crops_as_flags(config)}"
    ]


def view_plan(config: ResolvedConfig, method: Method, steps_per_epoch: int) -> ViewPlan:
    """Return the views of every step of resolved settings."""
    return ViewPlan(
        views=views_of(config),
        mixed=mixed_of(config, method),
        copies=copies_of(config),
        resolution=resolution_of(config, steps_per_epoch),
    )

"""Constants of data sets: mean and deviation of their pixels, and the size of their views."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pipelines.beton.pattern import files_of, is_pattern
from pipelines.beton.remote import is_remote_beton, manifest_of
from pipelines.data_spec import split_sum


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Constants of a data set: mean and std of pixels in [0, 1], and the evaluation view."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    """Side of the evaluation view, a centre crop, in pixels."""
    eval_resize: int | None = None
    """Shorter side in pixels to which the image is resized before the crop; None: no resize."""


IMAGENET = DataFacts((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, 256)
DATASETS = {
    "photos": DataFacts((0.472, 0.429, 0.411), (0.288, 0.260, 0.263), 48),
    "cifar10": DataFacts((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 32),
    "cifar100": DataFacts((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32),
    "stl10": DataFacts((0.43, 0.42, 0.39), (0.27, 0.26, 0.27), 64, 70),
    "tiny-imagenet": DataFacts((0.480, 0.448, 0.398), (0.277, 0.269, 0.282), 64),
}


def data_facts(spec: str) -> DataFacts:
    """Return the constants of ``spec``; a ``.beton`` made from a named set has that set's.

    Folders and other files get ImageNet's constants. Several data sets have those that all of them
    have; where they differ in their pixels or in their size, ImageNet's.
    """
    first, *others = (_facts_of_one(one) for one in split_sum(spec))
    if all(other == first for other in others):
        return first
    sizes = {(facts.image_size, facts.eval_resize) for facts in (first, *others)}
    size, resize = sizes.pop() if len(sizes) == 1 else (IMAGENET.image_size, IMAGENET.eval_resize)
    return dataclasses.replace(IMAGENET, image_size=size, eval_resize=resize)


def _facts_of_one(spec: str) -> DataFacts:
    if spec.endswith(".beton") or is_remote_beton(spec):
        if is_pattern(spec):
            spec = files_of(spec)[0]
        spec = str(manifest_of(spec).get("source", ""))
        if len(names := split_sum(spec)) > 1 and set(names) <= DATASETS.keys():
            return data_facts(spec)
    return DATASETS.get(spec, IMAGENET)


def channel_facts(facts: DataFacts, channels: int) -> DataFacts:
    """Return published constants of RGB images for images with this number of channels.

    Gray images have the average of the three means and of the three deviations, as usual.

    Raises:
        ValueError: nothing is published for this number of channels.
    """
    if channels == len(facts.mean):
        return facts
    if channels != 1:
        raise ValueError(f"no mean and std are published for images of {channels} channels")
    mean, std = (round(sum(values) / len(values), 4) for values in (facts.mean, facts.std))
    return dataclasses.replace(facts, mean=(mean,), std=(std,))

"""COCO, read by pycocotools: a folder of images and a file of boxes for each split. Lin 2014."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tools.evaluation.detection.dataset import Annotations, Box, DetectionDataset, image_files

TRAIN, VAL = ("train2017",), ("val2017",)


def coco(
    data_dir: Path, splits: Sequence[str], classes: tuple[str, ...] | None = None
) -> DetectionDataset:
    """Return the images of some splits, in the order of the annotation files.

    Args:
        data_dir: the folder that holds ``annotations`` and the splits' images.
        splits: names as ``train2017``.
        classes: names that the files must have, in this order (default: those of the first file,
            in order of category id; ids have gaps, labels have none).

    Raises:
        ValueError: a file is missing, not in COCO's format, or has other classes; the message
            names it.
    """
    paths: list[Path] = []
    annotations: list[Annotations] = []
    for split in splits:
        file = data_dir / "annotations" / f"instances_{split}.json"
        index = _index(file)
        try:
            found, images, objects = _parse(index)
        except (KeyError, TypeError, ValueError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{file} is not COCO's format: {why}") from error
        if classes is not None and found != classes:
            odd = sorted(set(found) ^ set(classes))
            raise ValueError(f"{file}: its classes are not those of training ({', '.join(odd)})")
        classes = found
        paths += [data_dir / split / name for name in images]
        annotations += objects
    pixels = image_files(paths, f"{data_dir}: {', '.join(splits)}")
    return DetectionDataset(classes or (), annotations, pixels)


def _index(file: Path) -> Any:
    """Return pycocotools' index of an annotation file."""
    from pycocotools.coco import COCO

    try:
        with redirect_stdout(None):
            return COCO(str(file))
    except OSError as error:
        raise ValueError(
            f"{file} cannot be read ({error.strerror or error}): --data-dir names the folder "
            "that holds annotations/"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file} is no valid JSON: {error}") from error
    except (AssertionError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not COCO's format: {error}") from error


def _parse(index: Any) -> tuple[tuple[str, ...], list[str], list[Annotations]]:
    """Return the classes, and the file name and annotations of each image."""
    images, categories = index.dataset["images"], index.dataset["categories"]
    names = dict(sorted((c["id"], c["name"]) for c in categories))
    label = {number: place for place, number in enumerate(names)}
    for item in index.dataset["annotations"]:
        if item["category_id"] not in label or item["image_id"] not in index.imgs:
            raise ValueError(f"annotation {item.get('id')} is of no image or class of the file")

    def box(item: dict[str, Any]) -> Box:
        left, top, width, height = (float(value) for value in item["bbox"])
        sides = (left, top, left + width, top + height)
        return sides, label[item["category_id"]], False, bool(item.get("iscrowd", 0))

    annotations = [Annotations.of([box(o) for o in index.imgToAnns[i["id"]]]) for i in images]
    return tuple(names.values()), [image["file_name"] for image in images], annotations

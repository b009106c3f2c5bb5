"""COCO: pictures in a folder a split, all boxes in annotations/instances_SPLIT.json. Lin 2014."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.evaluation.detection.examples import Examples, objects_of, read_picture

TRAIN, VAL = ("train2017",), ("val2017",)

Row = tuple[list[float], int, bool, bool]


def coco(data_dir: Path, splits: Sequence[str], classes: tuple[str, ...] | None = None) -> Examples:
    """Return the pictures of some splits, in the files' order.

    Args:
        data_dir: the folder that holds ``annotations`` and the splits' pictures.
        splits: names as ``train2017``.
        classes: names that the files must have, in this order (default: those of the first file,
            by their number; the numbers have gaps, labels have none).

    Raises:
        ValueError: a file is missing, is not COCO's, or has other classes; the text names it.
    """
    paths: list[Path] = []
    objects: list[list[Row]] = []
    for split in splits:
        file = data_dir / "annotations" / f"instances_{split}.json"
        content = _load(file)
        try:
            found, images, rows = _parse(content)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is not COCO's format: {_why(error)}") from error
        if classes is not None and found != classes:
            odd = sorted(set(found) ^ set(classes))
            raise ValueError(f"{file}: its classes are not those of training ({', '.join(odd)})")
        classes = found
        paths += [data_dir / split / name for name in images]
        objects += rows
    if not paths or classes is None:
        raise ValueError(f"{data_dir}: {', '.join(splits)} hold no pictures")
    if not paths[0].is_file():
        raise ValueError(f"{paths[0]} is missing: it is the first picture of {splits[0]}")
    return Examples(
        classes=classes,
        names=[str(path) for path in paths],
        objects=[objects_of(rows) for rows in objects],
        pixels=lambda i: read_picture(paths[i]),
    )


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{file} cannot be read ({error.strerror or error}): --data-dir names the folder "
            "that holds annotations/"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file} is no valid JSON: {error}") from error


def _parse(content: Any) -> tuple[tuple[str, ...], list[str], list[list[Row]]]:
    """Return classes, file names, and the objects of each file."""
    categories = sorted((c["id"], c["name"]) for c in content["categories"])
    label = {number: place for place, (number, _) in enumerate(categories)}
    place = {image["id"]: i for i, image in enumerate(content["images"])}
    rows: list[list[Row]] = [[] for _ in place]
    for item in content["annotations"]:
        left, top, width, height = (float(value) for value in item["bbox"])
        if item["category_id"] not in label or item["image_id"] not in place:
            raise ValueError(f"annotation {item.get('id')} is of no picture or class of the file")
        box = [left, top, left + width, top + height]
        crowd = bool(item.get("iscrowd", 0))
        rows[place[item["image_id"]]].append((box, label[item["category_id"]], False, crowd))
    names = tuple(name for _, name in categories)
    return names, [image["file_name"] for image in content["images"]], rows


def _why(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)

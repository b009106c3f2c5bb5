"""Pascal VOC: lists of ImageSets/Main, an XML file of boxes beside each JPEG.

Everingham 2010. ``2007/trainval`` is the list VOC2007/ImageSets/Main/trainval.txt; the published
transfer protocol trains on 2007/trainval with 2012/trainval and tests on 2007/test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tools.evaluation.detection.examples import Examples, objects_of, read_picture

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
TRAIN, VAL = ("2007/trainval", "2012/trainval"), ("2007/test",)

Annotation = list[tuple[list[float], str, bool]]


def voc(data_dir: Path, splits: Sequence[str], classes: tuple[str, ...] | None = None) -> Examples:
    """Return the pictures of some lists, in their order.

    Args:
        data_dir: the folder that holds VOC2007, or the VOCdevkit that does.
        splits: lists as ``2007/trainval``.
        classes: names in the order of labels (default: the 20 of VOC, or, if other names occur,
            those that occur, sorted).

    Raises:
        ValueError: a folder or file is missing or damaged, or holds a class that is not among
            ``classes``; the text names it.
    """
    paths: list[Path] = []
    found: list[Annotation] = []
    for split in splits:
        root, names = _list(data_dir, split)
        paths += [root / "JPEGImages" / f"{name}.jpg" for name in names]
        found += [read_annotation(root / "Annotations" / f"{name}.xml") for name in names]
    if not paths:
        raise ValueError(f"{data_dir}: the lists {', '.join(splits)} are empty")
    if not paths[0].is_file():
        raise ValueError(f"{paths[0]} is missing: it is the first of the list {splits[0]}")
    occurring = {name for rows in found for _, name, _ in rows}
    if classes is None:
        classes = CLASSES if occurring <= set(CLASSES) else tuple(sorted(occurring))
    for path, rows in zip(paths, found, strict=True):
        for _, name, _ in rows:
            if name not in classes:
                raise ValueError(f"{path.stem}.xml has the class {name}, which training has not")
    return Examples(
        classes=classes,
        names=[str(path) for path in paths],
        objects=[
            objects_of([(box, classes.index(name), hard, False) for box, name, hard in rows])
            for rows in found
        ],
        pixels=lambda i: read_picture(paths[i]),
    )


def read_annotation(path: Path) -> Annotation:
    """Return (box, class, difficult) of each object.

    VOC counts pixels from 1 and includes the last; boxes here count edges from 0.

    Raises:
        ValueError: the file is missing, is no XML or lacks a part.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no valid XML: {error}") from error
    rows: Annotation = []
    for number, item in enumerate(root.iter("object"), 1):
        try:
            left, top, right, bottom = (
                float(item.findtext(f"bndbox/{side}") or "nothing")
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
        except ValueError as error:
            raise ValueError(f"{path}: object {number} has no whole bndbox ({error})") from error
        name = (item.findtext("name") or "").strip()
        if not name:
            raise ValueError(f"{path}: object {number} has no name")
        if right < left or bottom < top:
            raise ValueError(f"{path}: object {number} ends before it begins")
        hard = (item.findtext("difficult") or "0").strip() == "1"
        rows.append(([left - 1, top - 1, right, bottom], name, hard))
    return rows


def _list(data_dir: Path, split: str) -> tuple[Path, list[str]]:
    """Return the folder of a year, and the names in one of its lists."""
    year, _, name = split.partition("/")
    if not (year.isdigit() and name):
        raise ValueError(f"{split}: a VOC list is named as 2007/trainval")
    below = (data_dir / f"VOC{year}", data_dir / "VOCdevkit" / f"VOC{year}")
    root = next((folder for folder in below if folder.is_dir()), None)
    if root is None:
        raise ValueError(f"--data-dir {data_dir} has no folder VOC{year} or VOCdevkit/VOC{year}")
    file = root / "ImageSets" / "Main" / f"{name}.txt"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
    return root, [line.split()[0] for line in lines if line.strip()]

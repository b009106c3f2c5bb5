"""Pascal VOC: lists in ImageSets/Main, and an XML file of boxes for each JPEG. Everingham 2010.

``2007/trainval`` is the list VOC2007/ImageSets/Main/trainval.txt. The published transfer protocol
trains on 2007/trainval and 2012/trainval and tests on 2007/test. torchvision's VOCDetection cannot
read custom lists or several lists at once, and returns the XML's values as strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tools.evaluation.detection.dataset import Annotations, DetectionDataset, image_files

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
TRAIN, VAL = ("2007/trainval", "2012/trainval"), ("2007/test",)

Object = tuple[list[float], str, bool]
"""An object's sides, class name, and whether it is difficult."""


def voc(
    data_dir: Path, splits: Sequence[str], classes: tuple[str, ...] | None = None
) -> DetectionDataset:
    """Return the images of some lists, in their order.

    Args:
        data_dir: the folder that holds VOC2007, or the VOCdevkit that does.
        splits: lists as ``2007/trainval``.
        classes: names in the order of labels (default: the 20 of VOC; if other names occur, the
            sorted names that occur).

    Raises:
        ValueError: a folder or file is missing or damaged, or has a class that is not among
            ``classes``; the message names it.
    """
    files = [file for split in splits for file in _listed(data_dir, split)]
    found = [read_annotation(xml) for _, xml in files]
    pixels = image_files([jpeg for jpeg, _ in files], f"{data_dir}: {', '.join(splits)}")
    occurring = {name for objects in found for _, name, _ in objects}
    if classes is None:
        classes = CLASSES if occurring <= set(CLASSES) else tuple(sorted(occurring))
    label = {name: number for number, name in enumerate(classes)}
    for (_, xml), objects in zip(files, found, strict=True):
        for _, name, _ in objects:
            if name not in label:
                raise ValueError(f"{xml.name} has the class {name}, which training has not")
    annotations = [
        Annotations.of([(box, label[name], difficult, False) for box, name, difficult in objects])
        for objects in found
    ]
    return DetectionDataset(classes, annotations, pixels)


def read_annotation(path: Path) -> list[Object]:
    """Return the objects of an image.

    VOC counts pixels from 1 and includes the last; boxes here count edges from 0.

    Raises:
        ValueError: the file is missing, not XML, or incomplete.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no valid XML: {error}") from error
    objects: list[Object] = []
    for number, item in enumerate(root.iter("object"), 1):
        sides = [item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            left, top, right, bottom = (float(side or "nothing") for side in sides)
        except ValueError as error:
            raise ValueError(f"{path}: object {number} has no whole bndbox ({error})") from error
        name = (item.findtext("name") or "").strip()
        if not name:
            raise ValueError(f"{path}: object {number} has no name")
        if right < left or bottom < top:
            raise ValueError(f"{path}: object {number} ends before it begins")
        difficult = (item.findtext("difficult") or "0").strip() == "1"
        objects.append(([left - 1, top - 1, right, bottom], name, difficult))
    return objects


def _listed(data_dir: Path, split: str) -> list[tuple[Path, Path]]:
    """Return the JPEG and XML files that a list names."""
    year, _, name = split.partition("/")
    if not (year.isdigit() and name):
        raise ValueError(f"{split}: a VOC list is named as 2007/trainval")
    places = (data_dir / f"VOC{year}", data_dir / "VOCdevkit" / f"VOC{year}")
    root = next((folder for folder in places if folder.is_dir()), None)
    if root is None:
        raise ValueError(f"--data-dir {data_dir} has no folder VOC{year} or VOCdevkit/VOC{year}")
    file = root / "ImageSets" / "Main" / f"{name}.txt"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
    names = [line.split()[0] for line in lines if line.strip()]
    return [(root / f"JPEGImages/{n}.jpg", root / f"Annotations/{n}.xml") for n in names]

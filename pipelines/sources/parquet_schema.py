"""Which columns of a parquet file hold images and classes. Only this file imports pyarrow.

The layout is that of Hugging Face's data sets: a column of structs {bytes, path}, and the features,
with the names of the classes, as JSON in the schema's metadata under ``huggingface``. A column of
plain bytes is read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NONE = "none"
"""``--label-key`` of data without labels."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is read of parquet files."""

    image_key: str | None = None
    """Column of the images; None: the one that holds images."""
    label_key: str | None = None
    """Column of the labels; None: ``label``, or the one of classes; ``none``: no labels."""
    classes: tuple[str, ...] | None = None
    """Keep these classes only, labelled in this order; None: all."""
    features: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """What is known of the columns of files without Hugging Face's metadata, in its form."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where images and labels are."""

    image: str
    label: str | None
    classes: tuple[str, ...] = ()
    """The classes' names in the schema's metadata, in the order of their numbers."""


def pyarrow() -> Any:
    """Return the package pyarrow.

    Raises:
        ValueError: it is not installed; the text has the command.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"parquet files are read by pyarrow, which cannot be imported ({error}): "
            "pip install 'unmix[parquet]'"
        ) from error
    return pyarrow


def find_columns(where: str, schema: Any, choice: Choice) -> Columns:
    """Return the columns of images and labels of a schema.

    Raises:
        ValueError: a column is not there, or it is not clear which one is meant.
    """
    features = _features(schema) or dict(choice.features)
    kinds = {column.name: column.type for column in schema}
    image = _image_column(where, kinds, features, choice.image_key)
    label = _label_column(where, kinds, features, choice.label_key)
    names = features.get(label or "", {}).get("names", ())
    return Columns(image, label, tuple(str(name) for name in names))


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return the features of Hugging Face's metadata by column; empty without."""
    try:
        text = (schema.metadata or {})[b"huggingface"]
        features = json.loads(text)["info"]["features"]
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _image_column(
    where: str, kinds: dict[str, Any], features: dict[str, dict[str, Any]], wanted: str | None
) -> str:
    fits = [name for name, kind in kinds.items() if _holds_bytes(kind) or _is_struct(kind)]
    if wanted is not None:
        if wanted in fits:
            return wanted
        raise ValueError(f"{where} has no images in --image-key {wanted}; {_listed(kinds)}")
    declared = [name for name in fits if features.get(name, {}).get("_type") == "Image"]
    structs = [name for name in fits if _is_struct(kinds[name])]
    found = declared or structs or fits
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f"{where} has no column of images (bytes); {_listed(kinds)}")
    raise ValueError(f"{where} has images in {_either(found)}: choose with --image-key {found[0]}")


def _label_column(
    where: str, kinds: dict[str, Any], features: dict[str, dict[str, Any]], wanted: str | None
) -> str | None:
    fits = [name for name, kind in kinds.items() if _is_whole(kind) or is_text(kind)]
    if wanted is not None:
        if wanted in fits:
            return wanted
        if wanted == NONE:
            return None
        raise ValueError(
            f"{where} has no classes (whole numbers or strings) in --label-key {wanted}; "
            f"{_listed(kinds)}"
        )
    if "label" in fits:
        return "label"
    classes = [name for name in fits if features.get(name, {}).get("_type") == "ClassLabel"]
    if len(classes) > 1:
        raise ValueError(
            f"{where} has classes in {_either(classes)}: choose with --label-key {classes[0]}, or "
            f"--label-key {NONE}"
        )
    return classes[0] if classes else None


def _either(names: Sequence[str]) -> str:
    return f"the columns {', '.join(names[:-1])} and {names[-1]}"


def _listed(kinds: dict[str, Any]) -> str:
    return "its columns are " + ", ".join(f"{name} ({kind})" for name, kind in kinds.items())


def _holds_bytes(kind: Any) -> bool:
    types = pyarrow().types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_struct(kind: Any) -> bool:
    if not pyarrow().types.is_struct(kind):
        return False
    return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)


def _is_whole(kind: Any) -> bool:
    types = pyarrow().types
    return bool(types.is_integer(kind) or types.is_boolean(kind))


def is_text(kind: Any) -> bool:
    """Whether a column of this type holds strings."""
    types = pyarrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))

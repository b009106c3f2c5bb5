"""Which members of a tar shard are a sample's image and its class.

The members of a sample have the same name up to the first dot of the last path part; the rest of
the name, in lower case, is a member's key.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipelines.beton.format import MAX_LABEL
from pipelines.sources.listing import extensions, is_hidden, is_system

IMAGE_NAMES = frozenset(("image", "img"))
"""Members ``NAME.image.jpg`` are images, as ``NAME.jpg`` is."""
LABEL_FIELDS = ("label", "cls", "class", "class_id", "y")
"""Fields of a sample's ``.json`` that are its class; the first that is there counts."""
LONGEST_NAME = 200
"""Characters of a class name."""

Label = int | str
"""The class of a sample: a number, -1 for none, or a name."""


@dataclass(frozen=True, slots=True)
class MemberKeys:
    """The keys that are read; flags set them."""

    image: str | None = None
    """Key of the images, as ``input.jpg`` or ``input``; None: any image's ending."""
    label: str | None = None
    """Key of the member, or field of the ``.json``, that is the class; None: the usual ones."""

    def __post_init__(self) -> None:
        """Write the key of the images as ``split_name`` returns it; the case of a field remains."""
        for name, value in (("image", self.image and self.image.lower()), ("label", self.label)):
            object.__setattr__(self, name, value and value.lstrip("."))

    def is_image(self, key: str) -> bool:
        """Whether a member with this key is the sample's image."""
        name, _, ending = key.rpartition(".")
        has_ending = f".{ending}" in extensions()
        if self.image is None:
            return has_ending and (not name or name in IMAGE_NAMES)
        return key == self.image or (has_ending and key.startswith(f"{self.image}."))

    def is_label(self, key: str) -> bool:
        """Whether a member with this key may hold the sample's class."""
        if self.label is None:
            return key in ("cls", "json")
        return key in (self.label.lower(), "json")

    def rank(self, key: str) -> int:
        """Return which member counts if a sample has several: the smallest rank."""
        return int(key == "json" and (self.label or "").lower() != "json")


USUAL = MemberKeys()
"""What holds where nothing is set."""


def split_name(member: str) -> tuple[str, str]:
    """Return the sample and the key of a member; the key is empty where it is no data."""
    folder, _, last = member.rpartition("/")
    parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
    stem, _, key = last.partition(".")
    top = parts[0] if parts else last
    is_meta = top.startswith("__") and top.endswith("__")  # webdataset's own, as __info__
    if is_meta or is_system(last) or any(map(is_hidden, parts)):
        return "", ""
    return f"{folder}/{stem}", key.lower()


class NoClass(ValueError):
    """A member holds something else than a class."""


def read_label(key: str, data: bytes, keys: MemberKeys, fields: Counter[str]) -> Label | None:
    """Return the class in a member, or None if a ``.json`` has no field of this name.

    Fields of ``.json`` members are counted in ``fields``.

    Raises:
        NoClass: it holds something else; the text shows it.
    """
    if keys.rank(key):
        return _from_json(data, keys.label, fields)
    text = data.decode("utf-8", "replace").strip()
    if keys.label is None and not _is_number(text):
        hint = f": --label-key {key} takes names" if text.isprintable() and text else ""
        raise NoClass(f"is no class number: {data[:40]!r}{hint}")
    return _checked(int(text) if _is_number(text) else text)


def _from_json(data: bytes, field: str | None, fields: Counter[str]) -> Label | None:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise NoClass(f"is no JSON ({error}): {data[:40]!r}") from error
    if not isinstance(found, dict):
        found = {}
    fields.update(found.keys())
    names = LABEL_FIELDS if field is None else (field,)
    value = next((found[name] for name in names if name in found), None)
    return None if value is None else _checked(value)


def _checked(value: Any) -> Label:
    if isinstance(value, str) and _is_number(value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -1 <= value <= MAX_LABEL:
        return value
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= LONGEST_NAME:
        return value
    raise NoClass(f"is no class number or name: {str(value)[:40]!r}")


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()

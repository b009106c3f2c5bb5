"""What a section of settings is, and what a field of one may be."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar


def free(default: Any) -> Any:
    """Declare a field that a resumed run may change; all others are its identity."""
    return field(default=default, metadata={"free": True})


def once(default: Any) -> Any:
    """Declare a field that belongs to one invocation: it is not saved with the settings."""
    return field(default=default, metadata={"free": True, "once": True})


class Section:
    """Settings of one subject."""

    title: ClassVar[str]
    """The heading in ``--help``."""

    def check(self) -> None:
        """Refuse settings of the section that contradict each other.

        Raises:
            ValueError: naming the flags.
        """

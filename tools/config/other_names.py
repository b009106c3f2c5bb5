"""Flags by which other trainers call a setting, where the parser suggests nothing."""

from __future__ import annotations

from collections.abc import Sequence

OTHER_NAMES = {
    **dict.fromkeys(("--learning-rate", "--base-lr", "--base-learning-rate"), "--lr"),
    **dict.fromkeys(("--arch", "--model", "--architecture", "--encoder"), "--backbone"),
    **dict.fromkeys(("--bs", "--batch"), "--batch-size"),
    **dict.fromkeys(("--max-epochs", "--num-epochs", "--num-train-epochs"), "--epochs"),
    "--wd": "--weight-decay",
    "--num-workers": "--workers",
    **dict.fromkeys(("--output-dir", "--out", "--save-dir"), "--output"),
    **dict.fromkeys(("--checkpoint", "--resume-from", "--resume-from-checkpoint"), "--resume"),
    **dict.fromkeys(("--pretrained", "--weights"), "--init"),
    **dict.fromkeys(("--amp", "--fp16", "--mixed-precision"), "--precision"),
}
"""Another trainer's flag, and the flag of the setting here."""


def refuse_other_names(words: Sequence[str]) -> None:
    """Refuse another trainer's name of a setting, and name the flag of this one.

    Raises:
        ValueError: a word of the command line is such a flag.
    """
    for word in words:
        name = word.partition("=")[0]
        if (own := OTHER_NAMES.get(name.replace("_", "-"))) is not None:
            raise ValueError(f"there is no {name}; the flag of this setting is {own}")

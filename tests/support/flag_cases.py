"""Combinations of flags, valid and invalid."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from hypothesis import strategies as st
from runs import SMALL, TINY

from pipelines.settings import MIX_NAMES
from tools.config.config import PresetName

WORDS: dict[str, tuple[str, ...]] = {
    "--views": get_args(PresetName),
    "--batch-size": ("1", "2", "8", "12", "40", "41"),
    "--groups": ("1", "2", "3", "8", "16", "17"),
    "--mix-groups": ("1", "2", "0", "16"),
    "--image-size": ("1", "8", "15", "32"),
    "--mix-prob": ("0", "1", "-0.1"),
    "--mix-beta": ("0", "1e-3", "1e3"),
    "--mix-draw": ("step", "group", "batch"),
    "--bn": ("group", "sync"),
    "--crops": ("2", "2 2", "1", "3 1"),
    "--crop-sizes": ("16", "16 8", "8"),
    "--crop-scales": (".2 1", ".2 1 .05 .2", "1 .2"),
    "--aug.flip": ("0", "2", "x"),
    "--aug.rand-augment": ("2 10 0.5", "6 10 0.5", "2 11 0.5", "2"),
    "--aug.scale": ("0.5 1", "1 0.5", "0 1"),
    "--aug.views": ("0.blur=1", "9.blur=0", "0-1.rotate90=1 0.vertical-flip=1", "blur"),
    "--balance": ("class", "nowhere.txt"),
    "--resolution-schedule": ("8:16", "16:8", "12", "a:b"),
    "--multi-scale": ("8 16", "16 12 8", "0"),
    "--backbone": ("resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224", "resnet"),
    "--stem": ("small", "standard"),
    "--stem-init": ("he", "pytorch", "xavier"),
    "--zero-init-last": ("",),
    "--optimizer": ("sgd", "adamw", "lars", "lamb", "adm"),
    "--lr": ("0", "1e-4", "nan", "inf", "-1", "x"),
    "--final-lr": ("0", "1"),
    "--warmup-epochs": ("0.5", "9", "-1"),
    "--schedule": ("cosine", "step", "constant"),
    "--milestones": (".5", ".8 .2", "2"),
    "--weight-decay": ("0", "-1"),
    "--momentum": ("0", "1", "1.5"),
    "--precision": ("no", "bf16", "fp16"),
    "--loader": ("memory", "ffcv", "dali", "dalli"),
    "--order": ("blocks", "random"),
    "--block-rows": ("1", "3", "1000"),
    "--window-blocks": ("1", "2"),
    "--workers": ("1", "0", "3"),
    "--prefetch": ("0", "9"),
    "--read-ahead": ("0", "100"),
    "--interpolation": ("area", "bilinear", "bicubic", "nearest"),
    "--on-bad-image": ("stop", "replace"),
    "--subset": ("0.5", "20", "1", "0", "1.5", "1000", "nan"),
    "--subset-seed": ("0", "3", "-1"),
    "--val-data": ("none", "nowhere.beton"),
    "--epochs": ("1", "0", "-1", "1000000"),
    "--log-every": ("1", "1000"),
    "--checkpoint-every": ("1", "0"),
    "--checkpoint-minutes": ("0", "-1", "0.001"),
    "--keep-checkpoints": ("1", "0"),
    "--keep-every-epochs": ("1", "-1"),
    "--timeout-minutes": ("1", "0"),
    "--knn-every": ("0", "1"),
    "--seed": ("0", "-1", "4294967296", "99999999999999999999"),
    "--accumulate": ("2", "1", "3", "0"),
    "--accumulate-inexact": ("",),
    "--on-nan": ("rollback", "stop", "skip"),
    "--check-ranks": ("1", "0", "-1"),
    "--resume": ("auto", "nowhere"),
    "--recipe": ("nowhere.yaml", "recipes/photos.yaml"),
    "--moco.queue": ("16", "15", "0"),
    "--swav.queue": ("0", "7", "16"),
    "--swav.prototypes": ("1", "0"),
    "--simclr.temperature": ("0", "1e-9", "9"),
    "--wmse.sub-batch": ("3", "1000"),
    "--clim.neighbours": ("1", "1000"),
    "--clim.start-epoch": ("0", "1"),
    "--clim.clusters": ("1", "0", "1000"),
    "--data": ("folder:nowhere", "nowhere.beton", "photo", "folder:"),
}
"""Values of each flag, right and wrong."""

MIXES = (
    *MIX_NAMES,
    "unmix+mixmask",
    "unmix+scalemix",
    "region+cutout",
    "im+clim",
    "mixmask+mixmask",
)
METHODS = st.sampled_from(sorted(SMALL))
CHOICES = st.dictionaries(st.sampled_from(sorted(WORDS)), st.integers(0, 9), max_size=4)
COMBINATIONS = st.tuples(METHODS, st.sampled_from(MIXES), CHOICES)


def command(
    toy: Path, output: Path, method: str, mix: str, choices: dict[str, int]
) -> tuple[str, ...]:
    """A small run called ``run``, of two steps, with the flags chosen instead of its own."""
    where = ("--data", f"folder:{toy}", "--output", str(output), "--name", "run")
    words = ["--method", method, "--mix", mix, "--limit-steps", "2"]
    words += [*TINY, *SMALL[method], *where]
    for name, number in choices.items():
        words += [name, *WORDS[name][number % len(WORDS[name])].split()]
    return tuple(words)

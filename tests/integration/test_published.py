"""The published numbers, copied from the papers' tables and code, not from the code under test.

Recipes, view presets and method defaults depend on them. A number changed by accident would still
train, but would reproduce another experiment. Sources: docs/methods.md and each recipe's header.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.methods import METHODS, Method
from models.methods.base import Setup
from models.methods.build import build_method
from models.settings.base import Defaults
from pipelines.batch import Batch
from pipelines.data_facts import DATASETS, IMAGENET
from pipelines.presets import PRESETS
from pipelines.views import View
from tools.config.cli import parse, to_dict
from tools.config.config import Config
from tools.engine import build

RECIPES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "recipes").glob("*"))}
OWN = ("photos", "cifar10-host", "cifar10-10k", "small-data")
PUBLISHED = [name for name in RECIPES if name not in OWN]

SGD = {"optimizer": "momentum", "momentum": 0.9, "decay": "all", "warmup_epochs": 0}
LARS = {"optimizer": "lars", "momentum": 0.9, "schedule": "cosine", "warmup_epochs": 10}
IM = {
    "mix": "im",
    "im.g_alpha": 1,
    "im.g_num": 2,
    "im.g_prob": 0.1,
    "im.r_beta": 1,
    "im.r_num": 2,
    "im.r_prob": 0.1,
    "im.r_pixel_decay": 1,
    "im.partner": "dataset",
}
MULTI_CROP = {
    "crops": (2, 6),
    "crop_sizes": (224, 96),
    "crop_scales": (0.14, 1, 0.05, 0.14),
}
NUMBERS: dict[str, dict[str, Any]] = {
    r".*-unmix-(?!mixmask).*": {"mix": "unmix", "mix_beta": 1},
    r"(moco|simclr|byol|wmse.|swav.*)-.*unmix-(cifar|stl|tiny|imagenet100).*": {"mix_prob": 0.5},
    r"moco-a?symmetric-unmix-cifar.*|moco-clim-cifar.*": SGD
    | {
        "backbone": "resnet18",
        "stem": "small",
        "bn": "group",
        "groups": 8,
        "views": "cifar",
        "moco.mlp": False,
        "moco.dim": 128,
        "moco.queue": 4096,
        "moco.momentum": 0.99,
        "moco.temperature": 0.1,
        "lr": 0.06,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "final_lr": 0,
        "epochs": 1000,
        "batch_size": 512,
        "mix_draw": "step",
    },
    r"moco-a?symmetric-unmix-cifar.*": {"stem_init": "pytorch"},
    r"moco-a?symmetric-.*": {"mix_groups": 4},
    r"moco-v1-.*|moco-v2-.*|swav-.*imagenet.*": {"mix_groups": None},
    r"moco-(symmetric).*": {"moco.symmetric": True},
    r"moco-(asymmetric|clim|v1|v2|im|16384).*": {"moco.symmetric": False},
    r"moco-v1-.*|moco-v2-.*|moco-clim-.*imagenet.*": SGD
    | {
        "backbone": "resnet50",
        "stem": "standard",
        "bn": "group",
        "groups": 8,
        "moco.dim": 128,
        "moco.queue": 65536,
        "moco.momentum": 0.999,
        "lr": 0.03,
        "weight_decay": 1e-4,
        "batch_size": 256,
        "mix_draw": "group",
    },
    r"moco-v1-.*": {
        "views": "moco-v1",
        "moco.mlp": False,
        "moco.temperature": 0.07,
        "schedule": "step",
        "milestones": (0.6, 0.8),
        "step_factor": 0.1,
        "epochs": 200,
    },
    r"moco-v2-.*|moco-clim-.*imagenet.*": {
        "views": "moco-v2",
        "moco.mlp": True,
        "moco.temperature": 0.2,
        "schedule": "cosine",
        "final_lr": 0,
    },
    r"moco-v2-.*": {"mix_prob": 0.5},
    r"moco-v2-(unmix-)?mixmask-.*": {
        "mixmask.kind": "block",
        "mixmask.grid": 8,
        "mixmask.share": 0.5,
        "lr": 0.03,
        "batch_size": 256,
        "epochs": 200,
    },
    r"moco-v2-mixmask-imagenet-200": {"mix": "mixmask"},
    r"moco-v2-unmix-mixmask-.*": {"mix": "unmix+mixmask", "mix_beta": 1},
    r"moco-(3layer|asym)-.*": SGD
    | {
        "backbone": "resnet50",
        "stem": "standard",
        "bn": "group",
        "groups": 8,
        "moco.mlp": True,
        "moco.layers": 3,
        "moco.dim": 128,
        "moco.queue": 65536,
        "moco.momentum": 0.999,
        "moco.temperature": 0.2,
        "moco.symmetric": False,
        "lr": 0.03,
        "final_lr": 0,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "batch_size": 256,
        "epochs": 100,
    },
    r"moco-3layer-.*": {"views": "moco-v2"},
    r"moco-3layer-scalemix-.*": {"mix": "scalemix"},
    r"moco-3layer-cropmix-.*": {"mix": "cropmix"},
    r"moco-asym-.*": {"views": "asym", "mix": "none"},
    r"moco-clim-.*": {
        "clim.rule": "centre",
        "clim.neighbours": 20,
        "clim.limit": None,
        "clim.fallback": "self",
        "clim.features": "momentum",
        "clim.start_epoch": 10,
        "clim.refresh": 5,
        "clim.alpha": 2,
        "clim.kind": "cutmix",
        "clim.mode": "add",
        "clim.weight": 1,
    },
    r"moco-clim-.*imagenet.*": {"clim.clusters": 10_000, "epochs": 200},
    r"moco-clim-multires-.*": {"resolutions": (224, 160), "resolution_reduce": "mean"},
    r"(cmc|insdis|moco)-im-.*": IM
    | {"epochs": 600, "milestones": (0.6, 0.8, 0.9), "crop_scales": (0.1, 1), "crop_sizes": (224,)},
    r"(insdis|moco-16384)-imagenet-.*": {
        "epochs": 200,
        "milestones": (0.6, 0.8),
        "crop_scales": (0.08, 1),
        "crop_sizes": (224,),
    },
    r"(cmc|insdis|moco-im|moco-16384)-.*": SGD
    | {
        "backbone": "resnet50",
        "groups": 4,
        "lr": 0.03,
        "weight_decay": 1e-4,
        "schedule": "step",
        "step_factor": 0.1,
        "batch_size": 128,
    },
    r"(moco-im|moco-16384)-.*": {
        "views": "moco-v1",
        "moco.mlp": False,
        "moco.dim": 128,
        "moco.queue": 16384,
        "moco.momentum": 0.999,
        "moco.temperature": 0.07,
    },
    r"insdis-.*": {
        "views": "insdis",
        "insdis.dim": 128,
        "insdis.softmax": True,
        "insdis.negatives": 16384,
        "insdis.temperature": 0.07,
        "insdis.momentum": 0.5,
    },
    r"cmc-.*": {
        "views": "cmc",
        "cmc.dim": 128,
        "cmc.space": "ycbcr",
        "cmc.width": 0.5,
        "cmc.softmax": True,
        "cmc.negatives": 4096,
        "cmc.temperature": 0.07,
        "cmc.momentum": 0.5,
    },
    r"(simclr|byol|wmse.)-unmix-.*": {
        "optimizer": "adam",
        "weight_decay": 1e-6,
        "schedule": "step",
        "step_factor": 0.2,
        "decay": "all",
        "backbone": "resnet18",
        "interpolation": "bicubic",
        "mix_draw": "step",
    },
    r"(simclr|byol|wmse.)-unmix-cifar.*": {"lr": 3e-3, "stem": "small", "epochs": 1000},
    r"(simclr|byol|wmse.)-unmix-(stl|tiny).*": {"lr": 2e-3, "stem": "small-pool"},
    r"(simclr|byol|wmse.)-unmix-(cifar|stl|tiny).*": {
        "views": "whitening",
        "stem_init": "pytorch",  # nn.Conv2d as it is made
    },
    r"(simclr|byol|wmse.)-unmix-stl.*": {"epochs": 2000, "image_size": 64},
    r"(simclr|byol|wmse.)-unmix-tiny.*": {"epochs": 1000, "image_size": 64},
    r"wmse.-unmix-imagenet100-.*": {
        "lr": 2e-3,
        "stem": "standard",
        "views": "simclr",
        "epochs": 240,
        "wmse.sub_batch": 256,
        "wmse.permutations": 1,
    },
    r"(simclr|byol|wmse2)-unmix-.*": {"batch_size": 512},
    r"wmse4-.*": {"batch_size": 256, "crops": (4,)},
    r"simclr-unmix-.*": {
        "simclr.hidden": 1024,
        "simclr.temperature": 0.5,
        "simclr.head_bn": True,
        "simclr.last_bias": True,
    },
    r"simclr-unmix-cifar.*": {"simclr.dim": 64},
    r"simclr-unmix-(stl|tiny).*": {"simclr.dim": 128},
    r"byol-unmix-.*": {
        "byol.hidden": 1024,
        "byol.momentum": 0.99,
        "byol.mix_online": False,
        "byol.last_bias": True,
    },
    r"byol-unmix-cifar.*": {"byol.dim": 64},
    r"byol-unmix-(stl|tiny).*": {"byol.dim": 128},
    r"wmse.-unmix-.*": {"wmse.hidden": 1024},
    r"wmse.-unmix-cifar.*": {"wmse.dim": 64, "wmse.sub_batch": 128, "wmse.permutations": 1},
    r"wmse.-unmix-(stl|tiny|imagenet100).*": {"wmse.dim": 128, "wmse.sub_batch": 256},
    r"wmse2-unmix-(stl|tiny).*": {"wmse.permutations": 4},
    r"wmse4-unmix-(stl|tiny).*": {"wmse.permutations": 1},
    r"swav-.*": {
        "swav.dim": 128,
        "swav.temperature": 0.1,
        "swav.epsilon": 0.05,
        "swav.iterations": 3,
        "swav.reverse": "code",
        "swav.chained_lam": True,
        "swav.queue_mixtures": True,
        "optimizer": "lars",
        "momentum": 0.9,
        "weight_decay": 1e-6,
        "decay": "all",
        "schedule": "cosine",
        "mix_draw": "step",
    },
    r"swav-.*cifar.*": {
        "backbone": "resnet26",
        "stem": "small",
        "views": "swav-cifar",
        "swav.prototypes": 100,
        "swav.hidden": 512,
        "swav.queue": 0,
        "swav.freeze_steps": 5005,
        "lr": 0.6,
        "final_lr": 6e-4,
        "warmup_epochs": 5,
        "epochs": 400,
    },
    r"swav-unmix-cifar.*": {"batch_size": 128},
    r"swav-bs256-.*": {"batch_size": 256, "lr": 0.6, "final_lr": 6e-4},
    r"swav-.*imagenet.*": {
        "backbone": "resnet50",
        "views": "swav",
        "swav.prototypes": 3000,
        "swav.hidden": 2048,
        "mix_prob": 0,
    },
    r"swav-bs256-unmix-imagenet.*": MULTI_CROP
    | {
        "warmup_epochs": 0,
        "swav.freeze_steps": 5005,
        "swav.queue": 3840,
        "swav.queue_start_epoch": 15,
        "groups": 4,
    },
    r"swav-(2x224-)?unmix-imagenet.*": {
        "batch_size": 4096,
        "lr": 4.8,
        "final_lr": 0.0048,
        "warmup_epochs": 10,
        "swav.freeze_steps": 313,
        "swav.queue": 0,
        "groups": 64,
    },
    r"swav-unmix-imagenet.*": MULTI_CROP,
    r"swav-2x224-.*": {"crops": (2,), "crop_sizes": (224,), "crop_scales": (0.08, 1)},
    r"(simclr|byol|barlow|vicreg|moco-v3)-imagenet-1000": LARS
    | {"backbone": "resnet50", "decay": "weights", "bn": "sync", "epochs": 1000},
    r"(simclr|byol|barlow|barlow-mixed-barlow|vicreg|moco-v3|simsiam)-imagenet-.*": {
        "zero_init_last": True
    },
    r"(?!(simclr|byol|barlow|barlow-mixed-barlow|vicreg|moco-v3|simsiam)-imagenet-).*": {
        "zero_init_last": False
    },
    r"simclr-imagenet-1000": {
        "views": "simclr",
        "lr": 4.8,
        "weight_decay": 1e-6,
        "batch_size": 4096,
        "simclr.temperature": 0.1,
        "simclr.hidden": 2048,
        "simclr.dim": 128,
        "simclr.head_bn": True,
        "simclr.last_bias": False,
        "interpolation": "bicubic",
    },
    r"byol-imagenet-1000": {
        "views": "byol",
        "lr": 3.2,
        "weight_decay": 1.5e-6,
        "batch_size": 4096,
        "byol.momentum": 0.996,
        "byol.hidden": 4096,
        "byol.dim": 256,
        "byol.last_bias": False,
    },
    r"barlow-imagenet-1000": {
        "views": "byol",
        "lr": 1.6,
        "weight_decay": 1e-6,  # main.py's default, which the README's command leaves
        "final_lr": 0.0016,  # 0.001 * 0.2 * 2048 / 256
        "batch_size": 2048,
        "barlow.off_diagonal": 0.0051,
        "barlow.bias_lr": 0.0015,  # 0.0048 / 0.2, by DDP's mean over 16 GPUs
        "barlow.dim": 8192,
        "barlow.hidden": 8192,
    },
    r"barlow-mixed-barlow-imagenet-300": LARS
    | {
        "mix": "mixed-barlow",
        "mix_beta": 1,
        "views": "byol",
        "backbone": "resnet50",
        "decay": "weights",
        "lr": 0.8,  # 0.2 * 1024 / 256
        "weight_decay": 1e-6,
        "epochs": 300,
        "batch_size": 1024,
        "barlow.off_diagonal": 0.0051,
        "barlow.mix_weight": 1,
        "barlow.dim": 8192,
    },
    r"barlow-mixed-barlow-cifar.*": {
        "mix": "mixed-barlow",
        "mix_beta": 1,
        "backbone": "resnet18",
        "stem": "small",
        "optimizer": "adam",
        "schedule": "cosine",
        "lr": 0.01,
        "epochs": 2000,
        "batch_size": 256,
        "barlow.off_diagonal": 1 / 128,
        "barlow.mix_weight": 4,
        "barlow.dim": 1024,
    },
    r"vicreg-imagenet-1000": {
        "views": "byol",
        "lr": 1.6,
        "weight_decay": 1e-6,
        "final_lr": 0.0016,  # end_lr = 0.001 * 0.2 * 2048 / 256
        "batch_size": 2048,
        "vicreg.invariance": 25,
        "vicreg.variance": 25,
        "vicreg.covariance": 1,
        "vicreg.dim": 8192,
        "vicreg.hidden": 8192,
    },
    r"moco-v3-imagenet-1000": {
        "views": "moco-v3",
        "lr": 4.8,
        "weight_decay": 1.5e-6,
        "batch_size": 4096,
        "moco_v3.momentum": 0.996,
        "moco_v3.temperature": 1,
        "moco_v3.hidden": 4096,
        "moco_v3.dim": 256,
        "moco_v3.last_bias": False,
    },
    r"simsiam-imagenet-100": SGD
    | {
        "views": "moco-v2",
        "lr": 0.1,
        "weight_decay": 1e-4,
        "batch_size": 512,
        "schedule": "cosine",
        "simsiam.dim": 2048,
        "simsiam.hidden": 512,
        "simsiam.layers": 3,
        "simsiam.constant_predictor_lr": True,
    },
    r"dino-.*": {
        "crops": (2, 8),  # local_crops_number, a default of main_dino.py as the next ones
        "crop_sizes": (224, 96),
        "dino.first_teacher_temperature": 0.04,
        "dino.teacher_temperature": 0.04,
        "dino.temperature_epochs": 0,
        "dino.temperature": 0.1,
        "dino.prototypes": 65536,
        "dino.hidden": 2048,
        "dino.dim": 256,
        "dino.head_bn": False,
        "dino.centre_momentum": 0.9,
        "dino.freeze_epochs": 1,
        "dino.momentum": 0.996,
        "clip_grad": 3,
        "clip_grad_each": True,
        "final_lr": 1e-6,
        "warmup_epochs": 10,
        "decay": "weights",
        "schedule": "cosine",
        "bn": "sync",
    },
    r"dino-imagenet-.*": {
        "crop_scales": (0.14, 1, 0.05, 0.14),
        "batch_size": 4096,
        "lr": 0.48,  # 0.03 * 4096 / 256
        "views": "dino",
        "optimizer": "momentum",
        "weight_decay": 1e-4,
        "epochs": 800,
    },
    r"dino-vit-small-.*": {
        "crop_scales": (0.4, 1, 0.05, 0.4),
        "backbone": "vit_small_patch16_224",
        "backbone_args": ("drop_path_rate=0.1",),
        "batch_size": 512,
        "lr": 1e-3,  # 0.0005 * 512 / 256
        "views": "dino-vit",
        "optimizer": "adamw",
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "epochs": 100,
    },
    r"moco-v3-vit-small-sdmp-.*": {
        "mix": "sdmp",
        "backbone": "vit_small_patch16_224",
        "views": "byol",
        "batch_size": 1024,
        "optimizer": "adamw",
        "lr": 6e-4,  # 1.5e-4 * 1024 / 256
        "weight_decay": 0.1,
        "warmup_epochs": 40,
        "epochs": 100,
        "freeze_patch_embed": True,
        "moco_v3.temperature": 0.2,
        "moco_v3.momentum": 0.99,
    },
    r"moco-v3-vit-small-patchmix-cifar.*": {
        "mix": "patchmix",
        "patchmix.patch": 2,
        "image_size": 32,
        "views": "byol",
        "aug.scale": (0.1, 1.0),
        "mean": (0.485, 0.456, 0.406),
        "batch_size": 512,
        "optimizer": "adamw",
        "lr": 1e-3,  # 5e-4 * 512 / 256
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "warmup_epochs": 100,
        "epochs": 800,
        "backbone_args": ("patch_size=2", "drop_path_rate=0.1"),
        "moco_v3.temperature": 0.2,
        "moco_v3.momentum": 0.996,
    },
    r"moco-v3-vit-small-imagenet-.*": {
        "backbone": "vit_small_patch16_224",
        "backbone_args": ("num_heads=12", "weight_init=moco"),
        "freeze_patch_embed": True,
        "views": "byol",  # --crop-min, which is .2 for ResNets, keeps its default of .08
        "batch_size": 4096,
        "optimizer": "adamw",
        "lr": 2.4e-3,  # 1.5e-4 * 4096 / 256
        "weight_decay": 0.1,
        "decay": "all",
        "schedule": "cosine",
        "warmup_epochs": 40,
        "epochs": 300,
        "bn": "sync",
        "moco_v3.momentum": 0.99,
        "moco_v3.temperature": 0.2,
        "moco_v3.layers": 3,
        "moco_v3.predictor_norm": True,
        "moco_v3.hidden": 4096,
        "moco_v3.dim": 256,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_holds_the_published_numbers(name: str) -> None:
    config = to_dict(parse(["--recipe", str(RECIPES[name])]))
    found = dict(config)
    for key, value in config.items():
        if isinstance(value, dict):
            found |= {f"{key}.{part}": number for part, number in value.items()}
    tables = [numbers for pattern, numbers in NUMBERS.items() if re.fullmatch(pattern, name)]
    assert sum(map(len, tables)) >= 10, f"{name} is in no table"
    for key, number in ((key, number) for table in tables for key, number in table.items()):
        value = tuple(found[key]) if isinstance(number, tuple) else found[key]
        assert value == number, key


@pytest.mark.parametrize("pattern", NUMBERS)
def test_every_line_of_the_table_is_of_some_recipe(pattern: str) -> None:
    assert any(re.fullmatch(pattern, name) for name in PUBLISHED)


MILD, STRONG = (0.4, 0.4, 0.4, 0.1), (0.8, 0.8, 0.8, 0.2)
BYOLS = (0.4, 0.4, 0.2, 0.1)
SCALE, SIGMA = (0.2, 1.0), (0.1, 2.0)


def view(
    scale: tuple[float, float],
    jitter: tuple[float, float, float, float],
    *,
    jitter_prob: float = 0.8,
    gray: float = 0.2,
    blur: float = 0.0,
    solarize: float = 0.0,
    size: int = 224,
    gray_first: bool = False,
) -> View:
    """A view with nothing left to its class's defaults."""
    return View(
        size=size,
        scale=scale,
        ratio=(3 / 4, 4 / 3),
        flip=0.5,
        jitter=jitter,
        jitter_prob=jitter_prob,
        gray=gray,
        gray_first=gray_first,
        blur=blur,
        blur_sigma=SIGMA,
        solarize=solarize,
    )


V1 = (0.4, 0.4, 0.4, 0.4)
VIEWS: dict[str, tuple[View, ...]] = {
    "moco-v1": (view(SCALE, V1, jitter_prob=1.0, gray_first=True),) * 2,
    "moco-v2": (view(SCALE, MILD, blur=0.5),) * 2,
    "simclr": (view((0.08, 1.0), STRONG, blur=0.5),) * 2,
    "byol": (view((0.08, 1.0), BYOLS, blur=1.0), view((0.08, 1.0), BYOLS, blur=0.1, solarize=0.2)),
    "moco-v3": (view(SCALE, BYOLS, blur=1.0), view(SCALE, BYOLS, blur=0.1, solarize=0.2)),
    "swav": (view((0.14, 1.0), STRONG, blur=0.5),) * 2
    + (view((0.05, 0.14), STRONG, blur=0.5, size=96),) * 6,
    "dino": (view((0.14, 1.0), BYOLS, blur=1.0), view((0.14, 1.0), BYOLS, blur=0.1, solarize=0.2))
    + (view((0.05, 0.14), BYOLS, blur=0.5, size=96),) * 6,
    "dino-vit": (
        view((0.4, 1.0), BYOLS, blur=1.0),
        view((0.4, 1.0), BYOLS, blur=0.1, solarize=0.2),
    )
    + (view((0.05, 0.4), BYOLS, blur=0.5, size=96),) * 8,
    "asym": (  # asym-siam: timm's rand-m10-n2-mstd0.5 after MoCo v2's recipe; the key: crop, flip
        replace(view(SCALE, MILD, blur=0.5), rand_augment=(2.0, 10.0, 0.5)),
        view((0.08, 1.0), MILD, jitter_prob=0.0, gray=0.0),
    ),
    "cifar": (view((0.08, 1.0), MILD),) * 2,
    "simsiam-cifar": (view(SCALE, MILD),) * 2,
    "swav-cifar": (view((0.14, 1.0), MILD),) * 2,
    "whitening": (view(SCALE, MILD, gray=0.1),) * 2,
    "cmc": (view((0.08, 1.0), MILD, jitter_prob=0.0, gray=0.0),),
    "insdis": (view((0.08, 1.0), V1, jitter_prob=1.0, gray_first=True),),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_holds_the_published_numbers(name: str) -> None:
    assert PRESETS[name](224) == VIEWS[name]


BY_LARS = dict(decay_norm_and_bias=False, warmup_epochs=10, zero_init_last=True)
DEFAULTS = {
    "moco": Defaults("momentum", 0.03, 1e-4, "moco-v2", "group"),
    "simclr": Defaults("lars", 0.3, 1e-6, "simclr", "sync", **BY_LARS),
    "byol": Defaults("lars", 0.2, 1.5e-6, "byol", "sync", **BY_LARS),
    "swav": Defaults("lars", 0.3, 1e-6, "swav", "sync", warmup_epochs=10, final_lr_ratio=1e-3),
    "wmse": Defaults("adam", 1.5e-3, 1e-6, "whitening", "sync", warmup_epochs=5),
    "cmc": Defaults("momentum", 0.06, 1e-4, "cmc", "group", schedule="step"),
    "insdis": Defaults("momentum", 0.06, 1e-4, "insdis", "group", schedule="step"),
    "simsiam": Defaults("momentum", 0.05, 1e-4, "moco-v2", "sync", zero_init_last=True),
    "barlow": Defaults("lars", 0.2, 1e-6, "byol", "sync", final_lr_ratio=1e-3, **BY_LARS),
    "vicreg": Defaults("lars", 0.2, 1e-6, "byol", "sync", final_lr_ratio=1e-3, **BY_LARS),
    "moco-v3": Defaults("lars", 0.3, 1.5e-6, "moco-v3", "sync", **BY_LARS),
    "dino": Defaults(
        "momentum", 0.03, 1e-4, "dino", "sync", decay_norm_and_bias=False, warmup_epochs=10
    ),
}
NUMBERS_OF: dict[str, dict[str, Any]] = {
    "moco": {"dim": 128, "queue": 65536, "momentum": 0.999, "temperature": 0.2, "mlp": True},
    "simclr": {"dim": 128, "hidden": 0, "temperature": 0.1},  # 0: as wide as the backbone, 2048
    "byol": {"dim": 256, "hidden": 4096, "momentum": 0.996, "last_bias": False},
    "swav": {"dim": 128, "hidden": 2048, "prototypes": 3000, "temperature": 0.1, "epsilon": 0.05},
    "wmse": {"hidden": 1024},
    "cmc": {"dim": 128, "negatives": 16384, "temperature": 0.07, "momentum": 0.5, "width": 0.5},
    "insdis": {"dim": 128, "negatives": 16384, "temperature": 0.07, "momentum": 0.5},
    "simsiam": {"dim": 2048, "hidden": 512, "layers": 3},
    "barlow": {
        "dim": 8192,
        "mix_weight": 1,
        "hidden": 8192,
        "off_diagonal": 0.0051,
        "bias_lr": 0.0015,
    },
    "vicreg": {"dim": 8192, "hidden": 8192, "invariance": 25, "variance": 25, "covariance": 1},
    "moco-v3": {
        "dim": 256,
        "hidden": 4096,
        "momentum": 0.996,
        "temperature": 1,
        "last_bias": False,
    },
    "dino": {"prototypes": 65536, "momentum": 0.996},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_holds_the_published_numbers(name: str) -> None:
    config = METHODS[name].settings
    assert config.defaults == DEFAULTS[name]
    made = config().suited("resnet50")
    assert {key: getattr(made, key) for key in NUMBERS_OF[name]} == NUMBERS_OF[name]


VIT_TRAINING: dict[str, tuple[Defaults, dict[str, Any]]] = {
    "moco-v3": (
        Defaults("adamw", 1.5e-4, 0.1, "byol", "sync", warmup_epochs=40, zero_init_last=True),
        {"layers": 3, "predictor_norm": True, "momentum": 0.99, "temperature": 0.2, "dim": 256},
    ),
    "dino": (
        Defaults(
            *("adamw", 5e-4, 0.04, "dino-vit", "sync"),
            decay_norm_and_bias=False,
            warmup_epochs=10,
            weight_decay_end=0.4,
        ),
        {"prototypes": 65536, "hidden": 2048, "momentum": 0.996, "head_bn": False},
    ),
}


@pytest.mark.parametrize("name", VIT_TRAINING)
def test_a_method_trains_transformers_as_published(name: str) -> None:
    defaults, numbers = VIT_TRAINING[name]
    assert METHODS[name].settings.transformer == defaults
    config = resolved("--method", name, "--backbone", "vit_small_patch16_224")
    assert {key: getattr(config.chosen, key) for key in numbers} == numbers
    assert config.views == defaults.views and config.warmup_epochs == defaults.warmup_epochs
    decay = (config.weight_decay, config.weight_decay_end)
    assert decay == (defaults.weight_decay, defaults.weight_decay_end or defaults.weight_decay)
    assert config.freeze_patch_embed == (name == "moco-v3")


FROM_ZERO = ("simclr", "byol", "simsiam", "barlow", "vicreg", "moco-v3")
"""Methods whose released ResNets start each residual block's last batch norm at 0."""


@pytest.mark.parametrize("name", METHODS)
def test_the_last_norm_of_a_block_starts_where_the_release_s_does(name: str) -> None:
    """On images as large as ImageNet's; the releases for small images start it at 1."""
    for size, expected in ((224, name in FROM_ZERO), (32, False)):
        assert resolved("--method", name, "--image-size", str(size)).zero_init_last is expected
        for flag, given in (("--zero-init-last", True), ("--no-zero-init-last", False)):
            words = ("--method", name, "--image-size", str(size), flag)
            assert resolved(*words).zero_init_last is given


def resolved(*words: str) -> Config:
    """Settings of a command line, filled in for photographs of ImageNet's kind."""
    return build.resolve(parse(words), IMAGENET, "no")


def built(name: str) -> Method:
    """A recipe's network, whose weights take no memory."""
    words = ["--recipe", str(RECIPES[name])]
    if "imagenet100" in name:
        words += ["--classes", "None"]
    config = parse(words)
    facts = DATASETS.get(config.data, IMAGENET)
    config = build.resolve(config, facts, "no")
    with torch.device("meta"):
        return build.create_method(config, 100, facts, 100_000)


def ends(module: nn.Module) -> list[tuple[str, bool, bool]]:
    """A head's linear layers and norms, each with whether it has a weight and a bias."""
    return [
        (kind, layer.weight is not None, layer.bias is not None)
        for layer in module.modules()
        for kind, types in (("linear", nn.Linear), ("norm", nn.modules.batchnorm._BatchNorm))
        if isinstance(layer, types)
    ]


def linear(bias: bool) -> tuple[str, bool, bool]:
    return ("linear", True, bias)


NORM, SCALE_ONLY, FIXED = ("norm", True, True), ("norm", True, False), ("norm", False, False)
HEADS: dict[str, list[tuple[str, bool, bool]]] = {
    # google-research/simclr model_util.py: center=False in the last norm, use_bias and not use_bn
    "simclr-imagenet-1000": [linear(False), NORM, linear(False), SCALE_ONLY],
    # htdt/self-supervised: nn.BatchNorm1d after the head, nn.Linear as it is made
    "simclr-unmix-cifar10-1000": [linear(False), NORM, linear(True), NORM],
    # deepmind-research byol/utils/networks.py: with_bias=False in the last layer
    "byol-imagenet-1000": [linear(False), NORM, linear(False)],
    "byol-unmix-cifar10-1000": [linear(False), NORM, linear(True)],
    # moco-v3 moco/builder.py: bias=False everywhere, the projector's last norm affine=False
    "moco-v3-imagenet-1000": [linear(False), NORM, linear(False), FIXED],
    "moco-v3-vit-small-imagenet-300": [linear(False), NORM] * 2 + [linear(False), FIXED],
    "simsiam-imagenet-100": [linear(False), NORM] * 2 + [linear(False), FIXED],
    "wmse2-unmix-cifar10-1000": [linear(False), NORM, linear(True)],
}
"""Where a norm follows, a linear layer's bias has no effect: ours has none, the release may."""
PREDICTORS = {
    "byol-imagenet-1000": [linear(False), NORM, linear(False)],
    "byol-unmix-cifar10-1000": [linear(False), NORM, linear(True)],
    "moco-v3-imagenet-1000": [linear(False), NORM, linear(False)],
    "moco-v3-vit-small-imagenet-300": [linear(False), NORM, linear(False), FIXED],
    "simsiam-imagenet-100": [linear(False), NORM, linear(True)],
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_has_the_released_biases_and_norms(name: str) -> None:
    method = built(name)
    assert ends(method.head) == HEADS[name]
    assert hasattr(method, "predictor") == (name in PREDICTORS)
    if name in PREDICTORS:
        assert ends(method.predictor) == PREDICTORS[name]


class Rows(nn.Module):
    """Returns embeddings that were made outside."""

    num_features = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def test_vicreg_s_variance_term_is_the_release_s() -> None:
    """25 (v(x) / 2 + v(y) / 2), both views the rows below: the whole loss but the covariances."""
    torch.manual_seed(0)
    rows = 0.3 * torch.randn(64, 8)
    method = build_method(
        "vicreg",
        METHODS["vicreg"].settings(covariance=0.0),
        Rows(),
        Setup(
            bn="sync",
            group_size=64,
            batch_size=64,
            seed=0,
            steps_per_epoch=1,
        ),
    )
    method.head = nn.Identity()
    number = torch.arange(64)
    images = rows[:, :, None, None]
    batch = Batch((images, images), number, number, number, seed=0, step=0)
    assert method(batch)["clean"].item() == pytest.approx(17.464, abs=5e-4)


def test_dino_s_head_starts_as_the_release_s() -> None:
    """Linear layers from N(0, .02) with biases of 0; the prototypes from PyTorch's uniform law."""
    torch.manual_seed(0)
    method = build_method(
        "dino",
        METHODS["dino"].settings(dim=64, hidden=256, prototypes=512),
        Rows(),
        Setup(
            bn="sync",
            group_size=8,
            batch_size=8,
            seed=0,
            steps_per_epoch=1,
        ),
    )
    layers = [layer for layer in method.head if isinstance(layer, nn.Linear)]
    assert len(layers) == 3
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.bias is not None and not layer.bias.any()
    assert method.prototypes.weight.abs().max().item() == pytest.approx(64**-0.5, rel=0.01)
    for a, b in zip(method.head.parameters(), method.teacher[1].parameters(), strict=True):
        assert a.equal(b)

"""A folder in the Hugging Face hub's layout, for ``timm.create_model("local-dir:OUT")``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm

from tools.exporting import timm as timm_file
from tools.exporting.source import Source
from tools.exporting.verify import largest_difference, quoted, run_example

SUFFIXES = ()
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FILES = (WEIGHTS, CONFIG, "README.md")
"""All files of the folder."""

OTHER_STEM = (
    "So `local-dir:` and `hf-hub:` cannot build this model: they stop with an error about "
    "`small_stem` instead of silently giving other features. The code below loads it."
)


def check(source: Source) -> None:
    """Refuse backbones for which timm has no model.

    Raises:
        ValueError: the encoder is a pair of networks.
    """
    source.require_one_network("huggingface")


def write(source: Source, path: Path) -> list[str]:
    """Write the folder; return notes for the user."""
    path.mkdir()
    notes = timm_file.write(source, path / WEIGHTS)
    (path / CONFIG).write_text(json.dumps(config_of(source), indent=2) + "\n")
    return [*notes, OTHER_STEM] if notes else []


def config_of(source: Source) -> dict[str, Any]:
    """Return the model's description in timm's form.

    timm's models have no option for a small-image stem. The weights of a deep stem would load
    without it and give other features, so the description has an option that timm rejects.
    """
    stock = timm.get_pretrained_cfg(source.architecture)
    options = {name: value for name, value in source.options.items() if name != "num_classes"}
    if source.stem_lines():
        options["small_stem"] = True
    return {
        "architecture": source.architecture,
        "num_classes": 0,
        "num_features": source.dim,
        "model_args": options,
        "pretrained_cfg": {
            "tag": source.config.method,
            "custom_load": False,
            "input_size": [source.channels, source.size, source.size],
            "fixed_input_size": "img_size" in options and "dynamic_img_size" not in options,
            "interpolation": "bicubic" if source.config.interpolation == "bicubic" else "bilinear",
            "crop_pct": source.size / source.resize,
            "crop_mode": "center",
            "mean": list(source.facts.mean),
            "std": list(source.facts.std),
            "num_classes": 0,
            "pool_size": None,
            # timm adapts a named layer to --in-chans as if its weights were those of RGB images
            "first_conv": stock.first_conv if stock and source.channels == 3 else None,
            "classifier": stock and stock.classifier,
        },
    }


def example(source: Source, path: Path) -> str:
    """Return code that computes ``features`` of ``images``."""
    if source.stem_lines():
        return timm_file.example(source, path / WEIGHTS)
    return _by_name(f"local-dir:{path}")


def hub_example(source: Source, name: str) -> str:
    """Return the same code for the model ``name``, ACCOUNT/NAME, on the hub."""
    if source.stem_lines():
        download = f"hf_hub_download({quoted(name)}, {quoted(WEIGHTS)})"
        return f"from huggingface_hub import hf_hub_download\n{timm_file.code(source, download)}"
    return _by_name(f"hf-hub:{name}")


def _by_name(name: str) -> str:
    lines = (
        "import timm",
        "",
        f"model = timm.create_model({quoted(name)}, pretrained=True)",
        "features = model.eval()(images)",
    )
    return "\n".join(lines)


def verify(source: Source, path: Path) -> float:
    """Return the largest difference of features after timm has loaded the folder."""
    return largest_difference(source, run_example(example(source, path)))

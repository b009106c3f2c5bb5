"""The model card: the weights, their training, their scores, and code that loads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from models.methods import METHODS
from pipelines.data_spec import join_sum, split_sum
from pipelines.settings import I_MIX_NAMES, UN_MIX_NAMES
from tools.config.cli import to_dict
from tools.config.config import Config
from tools.exporting.source import Source
from tools.runs.machine import commit
from tools.runs.metrics import read_metrics
from tools.runs.scores import NOT_THE_PROTOCOL, SCORES, encoder_of

LIBRARIES = {"huggingface": "timm", "timm": "timm"}
"""The hub's name of a target's library, where it differs from the target's name."""
PAPERS = {
    "unmix": (
        "shen2022unmix",
        "Un-Mix: Rethinking Image Mixtures for Unsupervised Visual Representation Learning",
        "Shen, Zhiqiang and Liu, Zechun and Liu, Zhuang and Savvides, Marios and Darrell, Trevor "
        "and Xing, Eric",
        "AAAI Conference on Artificial Intelligence",
        "2022",
    ),
    "mixmask": (
        "vishniakov2024mixmask",
        "MixMask: Revisiting Masking Strategy for Siamese ConvNets",
        "Vishniakov, Kirill and Xing, Eric and Shen, Zhiqiang",
        "British Machine Vision Conference",
        "2024",
    ),
    "mixed-barlow": (
        "bandara2023mixed",
        "Guarding Barlow Twins Against Overfitting with Mixed Samples",
        "Bandara, Wele Gedara Chaminda and De Melo, Celso M. and Patel, Vishal M.",
        "arXiv preprint 2312.02151",
        "2023",
    ),
    "imix": (
        "lee2021imix",
        "i-Mix: A Domain-Agnostic Strategy for Contrastive Representation Learning",
        "Lee, Kibok and Zhu, Yian and Sohn, Kihyuk and Li, Chun-Liang and Shin, Jinwoo and Lee, "
        "Honglak",
        "International Conference on Learning Representations",
        "2021",
    ),
    "sdmp": (
        "ren2022sdmp",
        "A Simple Data Mixing Prior for Improving Self-Supervised Learning",
        "Ren, Sucheng and Wang, Huiyu and Gao, Zhengqi and He, Shengfeng and Yuille, Alan and "
        "Zhou, Yuyin and Xie, Cihang",
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        "2022",
    ),
    "patchmix": (
        "shen2023patchmix",
        "Inter-Instance Similarity Modeling for Contrastive Learning",
        "Shen, Chengchao and Liu, Dawei and Tang, Hao and Qu, Zhe and Wang, Jianxin",
        "arXiv preprint 2306.12243",
        "2023",
    ),
    "scalemix": (
        "wang2022asymmetry",
        "On the Importance of Asymmetry for Siamese Representation Learning",
        "Wang, Xiao and Fan, Haoqi and Tian, Yuandong and Kihara, Daisuke and Chen, Xinlei",
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        "2022",
    ),
    "cropmix": (
        "han2022cropmix",
        "CropMix: Sampling a Rich Input Distribution via Multi-Scale Cropping",
        "Han, Junlin and Petersson, Lars and Li, Hongdong and Reid, Ian",
        "arXiv preprint 2205.15955",
        "2022",
    ),
    "clim": (
        "li2021clim",
        "Center-wise Local Image Mixture For Contrastive Representation Learning",
        "Li, Hao and Zhang, Xiaopeng and Xiong, Hongkai",
        "British Machine Vision Conference",
        "2021",
    ),
}
"""Key, title, authors, venue and year of the mixtures' papers."""


def card(
    source: Source,
    run: Path,
    target: str,
    code: str,
    notes: Sequence[str],
    command: str,
    licence: str | None = None,
) -> str:
    """Return the text of README.md, with the front matter that the hub reads.

    Args:
        source: the exported encoder.
        run: the run's folder, whose eval.jsonl and metrics.jsonl hold the scores.
        target: name of the tool that it was exported for.
        code: code that loads it.
        notes: notes for the user, a paragraph each.
        command: the command line that wrote the export.
        licence: the hub's name of the licence, as apache-2.0 (None: left open).
    """
    config = source.config
    mixture = "" if config.mix == "none" else f" with {config.mix} mixtures"
    parts = [
        front_matter(source, target, licence),
        f"# {source.architecture} by {config.method}{mixture} on {data_name(config.data)}",
        f"A backbone trained without labels: images in, {source.dim:,} features out. There is no "
        "classifier.",
        facts_table(source),
        f"## Load it ({target})",
        *notes,
        f"```{'yaml' if target == 'detectron2' else 'python'}\n{code}\n```",
        preparation(source),
        "## Scores",
        scores(source, run),
        "## Make it again",
        reproduction(source, command),
        "## Licence",
        licence or "Yours to fill in, above as well: choose one that the training images allow.",
        "## Cite",
        citation(source),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(source: Source, target: str, licence: str | None = None) -> str:
    """Return the hub's YAML; a licence that the user has not chosen is a comment."""
    tags = ["self-supervised-learning", source.config.method, target]
    if source.config.mix != "none":
        tags.append(f"mixture-{source.config.mix}")
    values: dict[str, Any] = {
        "library_name": LIBRARIES.get(target, target),
        "pipeline_tag": "image-feature-extraction",
        "tags": tags,
    }
    if licence:
        return f"---\n{yaml.safe_dump(values | {'license': licence}, sort_keys=False)}---"
    front = yaml.safe_dump(values, sort_keys=False)
    return f"---\n{front}# license: choose one before you publish this\n---"


def facts_table(source: Source) -> str:
    """Return a table of facts about the weights."""
    config, count = source.config, sum(p.numel() for p in source.encoder.parameters())
    stem = ", small-image stem" if source.stem_lines() else ""
    rows = {
        "Method": source.paper.rstrip("."),
        "Mixture": config.mix,
        "Data": f"{data_name(config.data)}, {source.num_images:,} images, no labels used",
        "Backbone": f"{source.architecture}{stem}, {count / 1e6:.2f} M parameters",
        "Started from": place_name(config.init) if config.init else "random weights",
        "Encoder": source.which,
        "Image size": f"{source.size} x {source.size} pixels",
        "Mean of the pixels": ", ".join(f"{x:g}" for x in source.facts.mean),
        "Deviation of the pixels": ", ".join(f"{x:g}" for x in source.facts.std),
        "Trained for": f"{source.epochs:.4g} of {config.epochs} epochs ({source.step:,} steps of "
        f"{config.batch_size} images)",
        "Optimiser": f"{config.optimizer}, peak learning rate {config.lr:g}, {config.schedule}",
        "Seed": str(config.seed),
        "Code": f"unmix, commit {commit() or 'unknown'} at export",
    }
    return _table(("", ""), rows.items())


def preparation(source: Source) -> str:
    """Describe the preprocessing of images."""
    bicubic = source.config.interpolation == "bicubic"
    filtering = "bicubic" if bicubic else "bilinear with antialiasing, PIL's"
    return (
        f"`images` (n, {source.channels}, {source.size}, {source.size}) are {source.color}, "
        "float32, `(pixel / 255 - mean) / std` with the numbers above. For the scores, the shorter "
        f"side was resized to {source.resize} pixels ({filtering}) and the centre was cropped."
    )


def scores(source: Source, run: Path) -> str:
    """Return a table of the scores of this checkpoint, each with its protocol."""
    rows = []
    for line in read_metrics(run / "metrics.jsonl"):
        if line["step"] == source.step and line.get("knn_top1") is not None:
            which = METHODS[source.config.method].method.scored
            name = _of_encoder("kNN while training", which, source)
            k = line.get("knn_k", source.config.knn_k)  # older runs wrote only what was asked for
            rows.append((name, _scores_of(line), f"k={k}, temperature=0.1"))
    for line in read_metrics(run / "eval.jsonl"):
        if line["step"] == source.step:
            name = _of_encoder(str(line.get("protocol")), encoder_of(line), source)
            rows.append((name, _scores_of(line), _how(line)))
    if not rows:
        return "Not evaluated."
    return _table(("protocol", "score", "how"), rows)


def _of_encoder(protocol: str, encoder: str, source: Source) -> str:
    """Return the protocol's name, with the encoder if it is not the exported one."""
    return protocol if encoder == source.which else f"{protocol}, of the {encoder} encoder"


def reproduction(source: Source, command: str) -> str:
    """Return the commands and settings that reproduce the export, without a machine's paths."""
    config = source.config
    free = {f.name for f in fields(Config) if f.metadata.get("free")} - {"data", "epochs"}
    settings = {name: value for name, value in to_dict(config).items() if name not in free}
    settings["data"] = data_name(config.data)
    settings |= {k: place_name(v) for k, v in settings.items() if k in ("init", "backbone") and v}
    text = yaml.safe_dump(settings, sort_keys=False).strip()
    return (
        "Save the settings below as `settings.yaml`, and give the place of the images by `--data`:"
        f"\n\n    python train.py --recipe settings.yaml\n    {command}\n\n"
        f"```yaml\n{text}\n```"
    )


def citation(source: Source) -> str:
    """Return the method's paper by its arXiv number, and those of the mixtures as BibTeX."""
    known = dict.fromkeys(UN_MIX_NAMES, "unmix") | dict.fromkeys(I_MIX_NAMES, "imix")
    names = [known.get(mix, mix) for mix in source.config.mixes]
    papers = [PAPERS[name] for name in names if name in PAPERS]
    if not papers:
        return f"The method: {source.paper}"
    entries = [
        f"@inproceedings{{{key},\n  title = {{{title}}},\n  author = {{{authors}}},\n"
        f"  booktitle = {{{venue}}},\n  year = {{{year}}}\n}}"
        for key, title, authors, venue, year in papers
    ]
    listed = "\n\n".join(entries)
    return f"The method: {source.paper}\n\nThe mixture:\n\n```bibtex\n{listed}\n```"


def data_name(data: str) -> str:
    """Return ``--data`` without the folders above its paths."""
    pieces = (one.rpartition(":") for one in split_sum(data))
    return join_sum(f"{kind}{colon}{Path(path).name}" for kind, colon, path in pieces)


def place_name(name: str) -> str:
    """Return ``--init`` or ``--backbone`` without the folders above a path."""
    return name if name.startswith(("timm:", "hf-hub:")) else Path(name).name


def _scores_of(line: dict[str, Any]) -> str:
    numbers = {k: v for k, v in line.items() if k.endswith(SCORES) and isinstance(v, float)}
    return ", ".join(f"{name} {100 * value:.2f} %" for name, value in numbers.items())


def _how(line: dict[str, Any]) -> str:
    apart = NOT_THE_PROTOCOL | {"protocol", "data", "val_data"}
    known = {k: v for k, v in line.items() if k not in apart and not k.endswith(SCORES)}
    known = {k: v for k, v in known.items() if not isinstance(v, dict | list)}
    known["data"] = data_name(str(line.get("data")))
    return ", ".join(f"{name}={value}" for name, value in known.items())


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

"""What a run starts from, and how its backbone is built: ``--init``, ``--backbone-args``, ..."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from tyro.conf import DisallowNone

from models.settings.backbones import HUB, OWN, is_resnet
from models.settings.base import SMALL_IMAGE, Stem
from pipelines.ranges import NonNegative, Range
from tools.config.reason import reason_of
from tools.config.section import Section

RESERVED = ("num_classes", "in_chans", "pretrained", "features_only", "checkpoint_path")
"""Arguments of a backbone that unmix sets itself."""
FORMS = "timm:NAME.TAG, hf-hub:ORG/NAME, a file of weights, a checkpoint, or a run's folder"


@dataclass(frozen=True)
class InitConfig(Section):
    """The weights a run starts from, and what protects them."""

    title = "start"

    init: str | None = None
    """Backbone's first weights: timm:NAME.TAG, hf-hub:ORG/NAME, a file or a run; None: random."""
    init_warmup: NonNegative = 0.0
    """Epochs at the start in which the head trains alone and the backbone of --init is frozen."""
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Factor on the learning rate from each layer of the backbone to the one below (1: none)."""
    backbone_args: tuple[str, ...] = ()
    """Arguments of the backbone's constructor as NAME=VALUE, as drop_path_rate=0.1."""
    freeze_patch_embed: DisallowNone[bool | None] = None
    """Keep a ViT's patch embedding at its first weights; None: with --method moco-v3, as there."""

    def check(self) -> None:
        """Refuse a warm-up of weights that are random, and arguments without a value."""
        if self.init_warmup and self.init is None:
            raise ValueError("--init-warmup needs --init: a random backbone has nothing to protect")
        arguments(self.backbone_args)


def arguments(words: Iterable[str]) -> dict[str, Any]:
    """Return the keyword arguments of ``--backbone-args``; values are YAML.

    Raises:
        ValueError: a word is not NAME=VALUE, or names what another flag sets.

    >>> arguments(["drop_path_rate=0.1", "pre_norm=true", "window_size=[8, 8]"])
    {'drop_path_rate': 0.1, 'pre_norm': True, 'window_size': [8, 8]}
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--backbone-args {word} must be NAME=VALUE, as drop_path_rate=0.1")
        if name in RESERVED or name in found:
            why = "was given twice" if name in found else "is set by unmix (--in-chans, --init)"
            raise ValueError(f"--backbone-args {word}: {name} {why}")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--backbone-args {word}: {value} is not YAML") from error
    return found


@dataclass(frozen=True)
class Start:
    """Where ``--init`` finds weights."""

    kind: Literal["timm", "hub", "run", "file"]
    name: str
    """A timm name, timm's name of a hub's model, or a path."""
    settings: dict[str, Any] | None = None
    """Settings of the run."""

    @property
    def backbone(self) -> str | None:
        """The backbone that the source names; None: it names none."""
        if self.kind == "timm":
            return self.name.partition(".")[0]
        return self.name if self.kind == "hub" else self._setting("backbone")

    @property
    def backbone_args(self) -> tuple[str, ...]:
        """The arguments of a run's backbone."""
        return tuple(self._setting("backbone_args") or ())

    @property
    def stem(self) -> Stem | None:
        """The stem of a run's ResNet, without "auto"; None: the source names none."""
        stem, size = self._setting("stem"), self._setting("image_size")
        if stem == "auto" and size is not None and is_resnet(str(self.backbone)):
            return "small" if size <= SMALL_IMAGE else "standard"
        return stem

    def _setting(self, name: str) -> Any:
        return (self.settings or {}).get(name)


def start_of(init: str) -> Start:
    """Return where the weights of ``--init`` are; nothing is read but a run's settings.

    Raises:
        ValueError: there is no such source.
    """
    if init.startswith("timm:"):
        return Start("timm", init.removeprefix("timm:"))
    if init.startswith(HUB):
        return Start("hub", init)
    path = Path(init).expanduser()
    if (path / "config.json").is_file():
        return Start("hub", f"local-dir:{path}")
    folder = path if path.is_dir() else path.parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    saved = folder / "config.yaml"
    in_a_run = path.is_dir() or path.parent.name == "checkpoints"
    if in_a_run and saved.is_file() and (folder / "checkpoints").is_dir():
        return Start("run", str(path), _settings(saved, init))
    if path.is_file():
        return Start("file", str(path))
    if path.is_dir():
        raise ValueError(
            f"--init {init}: the folder holds neither a run's config.yaml and checkpoints nor a "
            "hub model's config.json; name the file of weights in it"
        )
    raise ValueError(f"--init {init}: there is no such file or run; give {FORMS}{_meant(init)}")


def _settings(saved: Path, init: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(saved.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--init {init}: {saved} cannot be read: {reason_of(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--init {init}: {saved} holds no settings")
    return values


def _meant(init: str) -> str:
    """Suggest a prefix for what has the form of a hub's or timm's name."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", init):
        return f" (did you mean hf-hub:{init} or runs/{Path(init).name}?)"
    if re.fullmatch(r"[a-z]\w+(\.\w+)?", init):
        return f" (did you mean timm:{init} or runs/{init}?)"
    return ""


def check_backbone_name(backbone: str, resuming: bool) -> None:
    """Refuse a tag of weights on ``--backbone``, which loads none.

    A run of an earlier version may have such a name, and may be resumed.

    Raises:
        ValueError: the name has a tag, or the file of a module does not exist.
    """
    own = OWN.fullmatch(backbone)
    if own is not None:
        if not Path(own[1]).expanduser().is_file():
            raise ValueError(f"--backbone {backbone}: there is no file {own[1]}")
        return
    name, dot, _ = backbone.partition(".")
    if dot and not resuming and not backbone.startswith(HUB):
        raise ValueError(
            f"--backbone {backbone} names pretrained weights, which --backbone does not load: "
            f"--init timm:{backbone} starts from them, --backbone {name} from random weights"
        )


def named_backbone(
    backbone: str, stem: Stem, words: tuple[str, ...], init: str | None, resuming: bool = False
) -> tuple[str, Stem, tuple[str, ...]]:
    """Return ``--backbone``, ``--stem`` and ``--backbone-args``, from ``--init`` where left open.

    A run that is resumed, and names its backbone, needs its source no more.

    Raises:
        ValueError: there is no such source, or it has another backbone.
    """
    if init is None or (resuming and backbone != "auto"):
        return backbone, stem, words
    start = start_of(init)
    named = start.backbone
    if named is None:
        return backbone, stem, words
    hub = start.kind == "hub" and not backbone.startswith(HUB)  # its architecture is in its files
    if backbone not in ("auto", named) and not hub and backbone.partition(".")[0] != named:
        raise ValueError(
            f"--init {init} holds the weights of a {named}, not of --backbone {backbone}: leave "
            "--backbone out, or start from other weights"
        )
    backbone = named if backbone == "auto" else backbone
    stem = (start.stem or stem) if stem == "auto" else stem
    return backbone, stem, words or start.backbone_args

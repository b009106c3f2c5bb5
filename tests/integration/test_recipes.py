"""Each recipe: its header, name and line in docs/recipes.md; its full size; two small steps."""

import dataclasses
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from runs import SMALL, lines, run_train, skip_pictures

from pipelines.data_facts import DATASETS, IMAGENET, DataFacts
from tools.config.cli import parse
from tools.config.config import Config, ResolvedConfig
from tools.engine import build, trainer
from tools.runs import checkpoint

ROOT = Path(__file__).parents[2]
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
OWN = ("photos", "cifar10-host", "cifar10-10k", "small-data")
PUBLISHED = [name for name in RECIPES if name not in OWN]
IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "stl10": 105_000, "tiny-imagenet": 100_000}
IMAGENET_100 = 126_689


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def recipe(name: str) -> Config:
    """The settings of a header's command, from the command's own words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return parse(header(name)["Command"].split()[3:])


def header(name: str) -> dict[str, str]:
    """The parts of the comment at the top: ``# Part: text``, indented where it goes on."""
    comment = [line for line in RECIPES[name].read_text().splitlines() if line.startswith("#")]
    parts = re.split(r"\n# ([A-Z][a-z ]+): ", "\n".join(comment))
    text = (re.sub(r"\s*\\?\n#\s*", " ", part).strip() for part in parts[2::2])
    return dict(zip(parts[1::2], text, strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_says_where_it_is_from_and_how_to_run_it(name: str) -> None:
    parts = header(name)
    needed = ["Source", "Published result", "Command", *["Differs"] * (name in PUBLISHED)]
    assert all(parts.get(part) for part in needed)
    command = f"accelerate launch train.py --recipe recipes/{name}.yaml"
    assert (parts["Command"] + " ").startswith(command + " ")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_name_says_what_it_is(name: str) -> None:
    config = recipe(name)
    data = yaml.safe_load(RECIPES[name].read_text())["data"].removeprefix("folder:")
    data += "100" if config.classes else ""
    mixture = "" if config.mix == "none" else f"-{'-'.join(config.mixes)}"
    epochs = "" if name == "moco-v2-unmix-imagenet" else f"-{config.epochs}"  # the name
    method = "wmse[24]" if config.method == "wmse" else config.method
    assert re.fullmatch(
        rf"{method}(-vit-small|-[a-z0-9]+)?{mixture}(-multi[a-z]+)?-{data}{epochs}", name
    )
    assert ("-multiscale" in name) == bool(config.multi_scale)
    assert ("-multires" in name) == bool(config.resolutions)


def test_the_page_lists_every_recipe_with_its_result() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    row = r"^\| \[(.+)\]\(\.\./recipes/(.+)\.yaml\) \| .+ \| (.+) \| .+ \|$"
    rows = re.findall(row, page, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(RECIPES)
    for name, file, result in rows:
        assert name == file
        number = re.match(r"[\d., ]+(?= top-1)|none known", result)
        assert number and header(name)["Published result"].startswith(number[0])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_run_does_not_rest_on_defaults(name: str) -> None:
    """A default may change without changing what is reproduced."""
    stated = yaml.safe_load(RECIPES[name].read_text())
    filled = {f.name for f in dataclasses.fields(Config) if f.default is None and not f.metadata}
    filled -= {"classes", "resolution_schedule", "precision", "final_lr", "momentum"}
    filled -= {"mix_groups", "subset"}  # as many as groups, which are stated; all images
    filled -= {"mix_terms"}  # those of the mixture, which is stated
    filled -= {"depth_range", "mean", "std", "val_fraction", "balance"}  # the published images
    filled -= {"image_key", "label_key"}  # of tar shards
    filled -= {"weight_decay_end"}  # that of a stated weight decay is the same
    filled -= {"init", "freeze_patch_embed"}  # first weights; of transformers
    others = {"method", "mix", "data", "backbone", "stem", "zero_init_last", "epochs", "batch_size"}
    assert filled | others <= stated.keys()
    assert ("milestones" if stated["schedule"] == "step" else "final_lr") in stated
    assert (not stated["optimizer"].startswith("adam")) == ("momentum" in stated)
    assert (stated["mix"] != "none") <= ("groups" in stated)


def facts_of(config: Config) -> DataFacts:
    return DATASETS.get(config.data, IMAGENET)


def resolved(config: Config) -> ResolvedConfig:
    return build.resolve(config, facts_of(config), "no")


def num_images(config: Config) -> int:
    return IMAGES.get(config.data, IMAGENET_100 if config.classes else 1_281_167)


@pytest.mark.parametrize("name", RECIPES)
def test_real_sizes_fit_together(name: str) -> None:
    """Batch, groups, queue, crops and sub-batches as published; the weights take no memory."""
    config, num_rows = resolved(recipe(name)), num_images(recipe(name))
    for processes in (1, config.mixing_groups):
        build.check(config, processes)
    build.check_neighbours(config, num_rows)
    with torch.device("meta"):
        build.create_method(config, num_rows // config.batch_size, facts_of(config), num_rows)


WHITENING = [name for name in RECIPES if re.match("(simclr|byol|wmse.)-unmix-", name)]


@pytest.mark.parametrize("name", WHITENING)
def test_rate_of_the_whitening_code_base(name: str) -> None:
    """500 steps of warm-up, constant, a fifth of it 50 epochs before the end and again at 25."""
    config = resolved(recipe(name))
    epoch = num_images(config) // config.batch_size
    peak = 3e-3 if config.image_size == 32 else 2e-3

    def rate(step: int) -> float:
        return trainer.rate(config, step, epoch) / peak

    first, second = ((config.epochs - left) * epoch for left in (50, 25))
    assert rate(0) == pytest.approx(1 / 500) and rate(249) == pytest.approx(0.5)
    assert rate(498) < 1 and rate(499) == rate(first - 1) == 1
    assert rate(first) == rate(second - 1) == pytest.approx(0.2)
    assert rate(second) == rate(config.epochs * epoch - 1) == pytest.approx(0.04)


NOT_THE_STEP = {
    *("data", "classes", "subset", "subset_seed", "interpolation", "views", "crop_scales"),
    *("backbone", "stem", "stem_init", "zero_init_last"),
    *("epochs", "final_lr", "warmup_epochs", "schedule", "milestones", "step_factor"),
}
"""Settings of the images, the network and the rate: what a step is does not depend on them."""


def kind(value: object) -> object:
    """What makes a step of a recipe another one: its settings, of numbers whether they are 0."""
    if isinstance(value, dict):
        return tuple((k, kind(v)) for k, v in sorted(value.items()) if k not in NOT_THE_STEP)
    if isinstance(value, list):
        return len(value)
    return value if isinstance(value, str | bool) else value != 0


def small(config: Config) -> list[str]:
    """Flags that make a recipe's run tiny and leave its kind."""
    flags = ["--image-size", "16", "--batch-size", "16", "--backbone"]
    if config.backbone_args:
        tiny = ["patch_size=4", "depth=1", "embed_dim=16", "num_heads=2"]
        flags += ["vit_tiny_patch16_224", "--backbone-args", *tiny, *config.backbone_args[1:]]
    else:
        flags += ["test_resnet"]
    flags += ["--groups", "4", "--classes", "None", "--subset", "None", "--val-data", "none"]
    flags += SMALL[config.method]
    if config.mix_groups:
        flags += ["--mix-groups", "2"]
    if config.method == "swav":
        queue = "32" if config.swav.queue else "0"
        flags += ["--swav.queue", queue, "--swav.queue-start-epoch", "0"]
    if config.crop_sizes:
        flags += ["--crop-sizes", *("16", "8")[: len(config.crop_sizes)]]
    if config.multi_scale:
        flags += ["--multi-scale", "16", "20"]
    if config.resolutions:
        flags += ["--resolutions", "16", "12"]
    if config.mix == "clim":
        flags += ["--clim.start-epoch", "0", "--clim.neighbours", "4", "--clim.clusters", "3"]
    flags += ["--loader", "memory", "--workers", "2", "--knn-every", "0", "--log-every", "1"]
    return [*flags, "--limit-steps", "2", "--checkpoint-every", "2"]


KINDS = {kind(yaml.safe_load(path.read_text())): name for name, path in RECIPES.items()}
"""One recipe of each kind: others differ from it in sizes, rates and lengths alone."""


@pytest.mark.parametrize("name", sorted(KINDS.values()))
def test_two_steps(
    name: str,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skip_pictures(monkeypatch)
    config = recipe(name)
    where = ("--data", f"folder:{toy}", "--output", str(tmp_path), "--name", "run")
    assert run_train("--recipe", str(RECIPES[name]), *small(config), *where) == 0
    first, second = lines(tmp_path / "run")
    assert math.isfinite(first["loss"]) and math.isfinite(second["loss"])
    assert first["loss"] != second["loss"] and second["lr"] > 0
    path = checkpoint.last(tmp_path / "run" / "checkpoints")
    assert path is not None
    groups = checkpoint.load(path)["optimizer"]["param_groups"]
    default = config.chosen.defaults.decay_norm_and_bias
    everything = default if config.decay is None else config.decay == "all"
    decays = {group["weight_decay"] for group in groups}
    rising = (config.weight_decay_end or 0) > (config.weight_decay or 0)
    first_decay, last_decay = config.weight_decay or 0, config.weight_decay_end or 0
    assert not rising or first_decay < max(decays) < last_decay
    assert rising or decays == {config.weight_decay} | (set() if everything else {0.0})
    assert not any(group.get("nesterov") or group.get("trust_clip") for group in groups)

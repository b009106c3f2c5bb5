"""Whole runs in this process: every method, mixture and loader; resuming; the files of a run."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image, ImageOps
from runs import MIXES, SMALL, TINY, lines, run_train, skip_pictures
from toy_cases import toy_images

from pipelines.data_facts import data_facts
from tools.config.cli import ADDED_LATER, from_saved, parse, to_dict
from tools.config.config import NUMBERS, Config
from tools.engine import build
from tools.engine.train_state import TrainState
from tools.runs import checkpoint

MIXTURES, LOADERS = ("none", "global", "region", "unmix"), ("memory", "ffcv", "dali")
FULL = ("moco", "swav")
"""A method is told neither the loader nor the mixture's kind, so these alone meet them all."""
RESUMED = [(m, loader) for m in SMALL for loader in (LOADERS if m in FULL else LOADERS[:1])]
RUNS = [
    (method, loader, mix)
    for method, loader in RESUMED
    for mix in (MIXTURES if method in FULL else MIXES[method])
] + [("moco-v3", "memory", "sdmp"), ("moco-v3", "memory", "patchmix")]


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a tiny run's time."""
    skip_pictures(monkeypatch)


def flags(toy: Path, output: Path, method: str, *more: str) -> tuple[str, ...]:
    where = ("--data", f"folder:{toy}", "--output", str(output), "--name", "run")
    return ("--method", method, *TINY, *SMALL[method], *where, *more)


@pytest.mark.no_cover
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("method", "loader", "mix"), RUNS)
def test_every_method_mixes_on_every_loader(
    toy: Path, tmp_path: Path, method: str, mix: str, loader: str
) -> None:
    if loader != "memory":
        pytest.importorskip({"ffcv": "ffcv", "dali": "nvidia.dali"}[loader])
    more = ("--mix", mix, "--loader", loader, "--limit-steps", "2")
    assert run_train(*flags(toy, tmp_path, method, *more)) == 0
    first, second = lines(tmp_path / "run")
    assert (first["step"], second["step"], first["world_size"]) == (1, 2, 1)
    assert {"step", "epoch", "loss", "lr", "images_per_second", "data_wait"} <= first.keys()
    assert ("lam" in first) == (mix != "none")
    assert math.isfinite(second["loss"]) and second["loss"] != first["loss"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    path = checkpoint.last(run / "checkpoints")
    assert path is not None
    return checkpoint.load(path)["method"]


@pytest.mark.no_cover
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("method", "loader"), RESUMED)
def test_a_resumed_run_is_the_straight_run(
    toy: Path, tmp_path: Path, method: str, loader: str
) -> None:
    """Law 3, through the middle of an epoch (2 steps each) and its end."""
    if loader != "memory":
        pytest.importorskip({"ffcv": "ffcv", "dali": "nvidia.dali"}[loader])
    more = ("--mix", MIXES[method][-1], "--loader", loader)
    straight = flags(toy, tmp_path / "a", method, *more, "--limit-steps", "7")
    assert run_train(*straight) == 0
    killed = flags(toy, tmp_path / "b", method, *more)
    assert run_train(*killed, "--limit-steps", "3") == 0
    if method == FULL[0]:
        assert run_train(*killed, "--limit-steps", "4", "--resume", "auto") == 0
    assert run_train(*killed, "--limit-steps", "7", "--resume", "auto") == 0
    losses = [[(m["step"], m["loss"], m["lr"]) for m in lines(tmp_path / x / "run")] for x in "ab"]
    assert losses[0] == losses[1] and len(losses[0]) == 7
    a, b = (weights(tmp_path / x / "run") for x in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.usefixtures("no_pictures")
def test_a_resumed_run_drops_the_same_paths(toy: Path, tmp_path: Path) -> None:
    """Law 3 where layers draw random numbers of their own."""
    more = ("--backbone", "test_vit", "--image-size", "32", "--backbone-args", "drop_path_rate=0.5")
    runs = [flags(toy, tmp_path / x, "simsiam", *more) for x in "ab"]
    assert run_train(*runs[0], "--limit-steps", "4") == 0
    assert run_train(*runs[1], "--limit-steps", "2") == 0
    assert run_train(*runs[1], "--limit-steps", "4", "--resume", "auto") == 0
    a, b = ([m["loss"] for m in lines(tmp_path / x / "run")] for x in "ab")
    assert a == b and len(set(a)) == 4


def test_what_a_run_leaves(toy: Path, tmp_path: Path) -> None:
    more = ("--mix", "region", "--knn-every", "1", "--epochs", "2")
    assert run_train(*flags(toy, tmp_path, "byol", *more), pictures=True) == 0
    run = tmp_path / "run"
    left = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "summary.csv", "views.png", "curves.png"} <= left
    assert {"tensorboard", "checkpoints"} <= left and "RESUME" not in left
    scored = [line for line in lines(run) if "knn_top1" in line]
    assert [line["step"] for line in scored] == [0, 2, 4]
    assert all(0 <= line["knn_top1"] <= 1 for line in scored)
    assert len((run / "summary.csv").read_text().splitlines()) == 3
    assert (run / "checkpoints" / "last").read_text() == "step-4.pt"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["method"] == "byol" and settings["lr"] == 0.05
    assert list((run / "tensorboard").rglob("events*"))


def test_a_saved_configuration_is_a_recipe(toy: Path, tmp_path: Path) -> None:
    assert run_train(*flags(toy, tmp_path, "swav", "--mix", "region", "--limit-steps", "2")) == 0
    again = ("--recipe", str(tmp_path / "run" / "config.yaml"), "--name", "again")
    assert run_train(*again) == 0
    assert lines(tmp_path / "again")[0]["loss"] == lines(tmp_path / "run")[0]["loss"]


def test_resume_refuses_other_settings(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = flags(toy, tmp_path, "moco", "--mix", "unmix", "--limit-steps", "1")
    assert run_train(*start) == 0
    changed = (*start, "--resume", "auto", "--seed", "5", "--moco.temperature", "0.3")
    assert run_train(*changed) == 2
    said = capsys.readouterr().err
    assert "--seed: 0 -> 5" in said and "--moco.temperature: 0.2 -> 0.3" in said
    assert run_train(*start) == 2
    assert "--resume auto" in capsys.readouterr().err


def test_resume_by_path_needs_no_other_flag(toy: Path, tmp_path: Path) -> None:
    assert run_train(*flags(toy, tmp_path, "moco", "--mix", "unmix", "--limit-steps", "3")) == 0
    run = tmp_path / "run"
    assert run_train("--resume", str(run), "--limit-steps", "5") == 0
    assert run_train("--resume", str(run / "checkpoints" / "step-5.pt")) == 0
    assert [line["step"] for line in lines(run)] == list(range(1, 9))


@pytest.mark.parametrize("method", ["byol", "moco-v3"])
def test_a_run_older_than_a_setting_goes_on_as_it_began(
    method: str, toy: Path, tmp_path: Path, no_pictures: None
) -> None:
    """Its files lack the setting, whose default is no longer what the run did."""
    owner = method.replace("-", "_")
    then = (f"--{method}.last-bias", "--no-zero-init-last", "--limit-steps", "2")
    assert run_train(*flags(toy, tmp_path, method, *then)) == 0
    run = tmp_path / "run"

    def older(config: dict) -> dict:
        del config["zero_init_last"], config[owner]["last_bias"]
        return config

    (run / "config.yaml").write_text(
        yaml.safe_dump(older(yaml.safe_load((run / "config.yaml").read_text())))
    )
    path = checkpoint.last(run / "checkpoints")
    assert path is not None
    state = checkpoint.load(path)
    state = {key: value for key, value in state.items() if key not in ("format", "step")}
    del state["data"]["content"]  # what an older version has not noted
    checkpoint.save(path.parent, 2, state | {"config": older(state["config"])}, 2)

    config, state = build.load_run(run)
    assert getattr(config, owner).last_bias and not config.zero_init_last
    facts = data_facts(config.data)
    restored = build.create_method(config, 1, facts, state["data"]["images"])
    restored.load_state_dict(state["method"])
    assert run_train("--resume", str(run), "--limit-steps", "3") == 0
    assert [line["step"] for line in lines(run)] == [1, 2, 3]


def test_settings_added_later_are_settings() -> None:
    """Each is one of today's, with a default that is not what runs did before."""
    today = to_dict(Config()) | {name: dataclasses.asdict(v) for name, v in NUMBERS.items()}
    for name, before in ADDED_LATER.items():
        owner, _, setting = name.rpartition(".")
        part = today[owner] if owner else today
        assert part[setting] != before
        named = {owner: {}} if owner else {}
        saved = from_saved({"method": owner.replace("_", "-") or "moco"} | named, "a run")
        assert getattr(getattr(saved, owner) if owner else saved, setting) == before
        kept = from_saved({owner: {setting: part[setting]}} if owner else {setting: None}, "a run")
        assert getattr(getattr(kept, owner) if owner else kept, setting) == part[setting]
    assert from_saved({"method": "moco"}, "a run").byol == Config().byol


def test_a_new_signature_makes_no_other_name_of_the_same_data() -> None:
    """Other bytes under the same URL are refused, and only noted under another."""
    url = "https://host/a.beton"
    config = SimpleNamespace(data=f"{url}?Sig=2")
    then = {"content": "a", "images": 1}
    now: Any = SimpleNamespace(_data={"content": "b", "images": 1}, _config=config)
    with pytest.raises(ValueError, match=r"with other contents.* files back to https:[^?]*$"):
        TrainState._refuse_other_images(now, Path("x"), then, f"{url}?Sig=1")
    TrainState._refuse_other_images(now, Path("x"), then, "https://other/a.beton")


def test_resume_refuses_other_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The text of --data may change between a stop and a resume; the images may not.

    Under another text, the same rows may be the same images in another form.
    """
    toy_images(tmp_path / "a", "train", 40)
    start = ("--limit-steps", "1", "--val-data", "none")
    assert run_train(*flags(tmp_path / "a", tmp_path, "byol", *start)) == 0
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = flags(tmp_path / "moved", tmp_path, "byol", *start, "--resume", "auto")
    assert run_train(*moved, "--limit-steps", "2") == 0
    for path in (tmp_path / "moved").rglob("*.jpg"):
        ImageOps.invert(Image.open(path)).save(path, quality=95)
    assert run_train(*moved, "--limit-steps", "3") == 2
    assert "as many of the same sizes and labels, with other contents" in capsys.readouterr().err
    (tmp_path / "moved").rename(tmp_path / "again")
    again = flags(tmp_path / "again", tmp_path, "byol", *start, "--resume", "auto")
    assert run_train(*again, "--limit-steps", "3") == 0
    assert "moved did, with the same sizes and labels" in caplog.text
    (tmp_path / "again").rename(tmp_path / "moved")
    toy_images(tmp_path / "moved", "train", 44)
    assert run_train(*moved, "--limit-steps", "3") == 2
    assert "40 then, 44 now" in capsys.readouterr().err


def test_a_name_is_one_run_s_alone(toy: Path, tmp_path: Path) -> None:
    """Neither another run's name nor a run killed before its first checkpoint misleads --resume."""
    start = flags(toy, tmp_path, "byol", "--limit-steps", "1", "--resume", "auto")
    assert run_train(*start, "--name", "x-100") == 0
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").write_text("method: byol\n")  # no checkpoint yet
    assert run_train(*start, "--name", "x") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"x", "x-100"}
    assert [line["step"] for line in lines(tmp_path / "x")] == [1]


def test_labels_never_reach_a_loss(toy: Path, tmp_path: Path) -> None:
    """Law 10: the same images without classes give the same losses."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted((toy / "train").rglob("*.jpg")):
        (flat / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    for name, data in (("a", toy), ("b", flat)):
        output = ("--output", str(tmp_path / name), "--limit-steps", "2", "--val-data", "none")
        assert run_train(*flags(data, tmp_path, "simclr", "--mix", "unmix", *output)) == 0
    a, b = ([m["loss"] for m in lines(tmp_path / x / "run")] for x in "ab")
    assert a == b


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("--batch-size", "64"), "--batch-size"),
        (("--mix", "region", "--groups", "3"), "--groups"),
        (("--mix", "region", "--groups", "16"), "even"),
        (("--backbone", "resnet5O"), "resnet50"),
        (("--optimizer", "sdg"), "--optimizer"),
        (("--simclr.temperature", "0.5"), "--method simclr"),
        (("--moco.queue", "8"), "--moco.queue"),
        (("--crops", "2", "6", "--crop-sizes", "8", "4"), "--crop-scales"),
        (
            (
                "--crops",
                "2",
                "1",
                "--crop-sizes",
                "16",
                "8",
                "--crop-scales",
                ".2",
                "1",
                ".1",
                ".2",
            ),
            "views",
        ),
        (("--data", "cifar01"), "cifar10"),
        (("--data", "folder:nowhere"), "nowhere"),
        (("--resume", "nowhere"), "nowhere"),
        (("--recipe", "nowhere.yaml"), "nowhere.yaml"),
        (("--epochs", "0"), "--epochs"),
        (("--mix-prob", "2"), "--mix-prob"),
        (("--seed", "-1"), "--seed"),
        (("--lr", "nan"), "--lr"),
        (("--crop-scales", ".9", ".2", "--crops", "2", "--crop-sizes", "8"), "--crop-scales"),
        (("--moco.temperature", "0"), "--moco.temperature"),
        (("--name", "a/b"), "--name"),
        (("--log-with", "wandb"), "wandb"),
        (("--precision", "fp16"), "fp16"),
    ],
)
def test_bad_flags_are_refused_by_name(
    toy: Path,
    tmp_path: Path,
    wrong: tuple[str, ...],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_train(*flags(toy, tmp_path, "moco", *wrong)) == 2
    said = capsys.readouterr()
    assert named in said.err and "Traceback" not in said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "wrong", "named"),
    [
        ("cmc", ("--mix", "region"), "--mix im-region"),
        ("cmc", ("--backbone", "vit_tiny_patch16_224"), "only ResNets"),
        ("insdis", ("--views", "moco-v2"), "exactly 1"),
        ("wmse", ("--wmse.sub-batch", "12"), "--wmse.sub-batch"),
        ("swav", ("--swav.queue-mixtures",), "--swav.reverse code"),
    ],
)
def test_a_method_refuses_what_it_has_no_meaning_for(
    toy: Path,
    tmp_path: Path,
    method: str,
    wrong: tuple[str, ...],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_train(*flags(toy, tmp_path, method, *wrong)) == 2
    assert named in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_loss_of_the_whole_batch_refuses_mixtures_of_groups(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(*flags(toy, tmp_path, "barlow", "--mix", "region", "--mix-draw", "group")) == 2
    assert "--mix-draw step" in capsys.readouterr().err


def test_rates_of_groups_of_parameters(toy: Path, tmp_path: Path) -> None:
    """SimSiam's predictor keeps to the peak; the rest of the network falls along the cosine."""
    assert run_train(*flags(toy, tmp_path, "simsiam", "--limit-steps", "5")) == 0
    path = checkpoint.last(tmp_path / "run" / "checkpoints")
    assert path is not None
    groups = checkpoint.load(path)["optimizer"]["param_groups"]
    rates = {group["scheduled"]: group["lr"] for group in groups}
    assert rates[False] == 0.05 and rates[True] == lines(tmp_path / "run")[-1]["lr"] < 0.04


def test_numbers_of_a_method_with_a_hyphen(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(*flags(toy, tmp_path, "moco", "--moco-v3.temperature", "0.3")) == 2
    assert "--moco-v3.temperature needs --method moco-v3" in capsys.readouterr().err
    start = flags(toy, tmp_path, "moco-v3", "--limit-steps", "1")
    assert run_train(*start) == 0
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["moco_v3"]["dim"] == 16 and "moco" not in settings
    assert run_train(*start, "--resume", "auto", "--moco-v3.temperature", "0.3") == 2
    assert "--moco-v3.temperature: 1.0 -> 0.3" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["--block-rows", "--window-blocks"])
def test_numbers_of_blocks_need_blocks(
    toy: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = (*flags(toy, tmp_path, "moco"), name, "4")
    assert run_train(*start) == 2
    assert f"{name} needs --order blocks" in capsys.readouterr().err
    assert run_train(*start, "--order", "blocks", "--dry-run") == 0
    recipe = tmp_path / "blocks.yaml"  # its numbers go with what it chose
    recipe.write_text(f"order: blocks\n{name[2:].replace('-', '_')}: 4\n")
    start = (*flags(toy, tmp_path, "moco"), "--recipe", str(recipe), "--dry-run")
    assert run_train(*start) == 0 and "order: blocks" in capsys.readouterr().out
    assert run_train(*start, "--order", "random") == 0
    assert f"{name[2:].replace('-', '_')}: 4" not in capsys.readouterr().out


def test_an_unknown_flag_is_refused_with_a_suggestion(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(*flags(toy, tmp_path, "moco", "--methid", "moco")) == 2
    assert "--method" in capsys.readouterr().err


def test_a_switch_that_may_be_left_to_the_method_is_a_switch(tmp_path: Path) -> None:
    """``--zero-init-last`` and ``--no-zero-init-last``; true and false in YAML."""
    assert parse([]).zero_init_last is None
    assert parse(["--zero-init-last"]).zero_init_last is True
    assert parse(["--no-zero-init-last"]).zero_init_last is False
    recipe = tmp_path / "recipe.yaml"
    for word, value in (("true", True), ("false", False), ("null", None)):
        recipe.write_text(f"zero_init_last: {word}\n")
        assert parse(["--recipe", str(recipe)]).zero_init_last is value
        turned = parse(["--recipe", str(recipe), "--zero-init-last"])
        assert turned.zero_init_last is True
        assert from_saved(to_dict(turned), "a run") == dataclasses.replace(turned, recipe=None)


def test_an_unknown_recipe_key_is_refused_with_a_suggestion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("swav:\n  prototipes: 3\n")
    assert run_train("--recipe", str(recipe)) == 2
    assert "did you mean 'swav.prototypes'" in capsys.readouterr().err


def test_dry_run_prints_and_stops(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(*flags(toy, tmp_path, "swav", "--mix", "region", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "steps: 2 an epoch, 8 in all" in said and "GiB" in said and "prototypes: 12" in said
    assert "note: the GPU has" not in said
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--lr", "1e30", "--limit-steps", "6", "--log-every", "2", "--checkpoint-every", "1")
    assert run_train(*flags(toy, tmp_path, "byol", *more)) == 2
    said = capsys.readouterr().err
    assert "is not finite" in said and "images are rows [" in said
    saved = weights(tmp_path / "run")
    assert saved

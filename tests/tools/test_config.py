"""The settings: flags and saved runs of earlier versions, ranges of all numbers, fast errors."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from PIL import Image
from runs import run_train

from models.methods import METHODS
from pipelines.data_facts import DATASETS
from pipelines.mixtures.unmix import UN_MIX
from pipelines.ranges import Range, ranges_of
from pipelines.settings import UN_MIX_NAMES
from tools.config.cli import ADDED_LATER, differences, from_dict, from_saved, parse, to_dict
from tools.config.config import NUMBERS, Config, ResolvedConfig, flag, numbers_of
from tools.config.other_names import OTHER_NAMES
from tools.config.parser import read_all, read_named
from tools.config.preflight import preflight
from tools.config.resolve import resolve, resolved
from tools.config.sections import SECTIONS
from tools.config.values import refuse_other_values
from tools.engine import dry_run
from tools.engine.sampling import refuse_large_batch

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "support" / "saved"
"""``config_*.yaml`` and ``flags.txt`` were written by commit b0b6bbd."""


@pytest.mark.parametrize("name", ["moco", "clim"])
def test_the_settings_of_an_earlier_run_load_and_are_written_alike(name: str) -> None:
    saved = yaml.safe_load((FIXTURES / f"config_{name}.yaml").read_text())
    config = resolved(from_saved(saved, "a run"))
    assert isinstance(config, ResolvedConfig)
    written, default = to_dict(config), to_dict(Config()) | ADDED_LATER
    newer = {name: default[name] for name in written.keys() - saved.keys()}
    for owner in written.keys() & NUMBERS.keys() & saved.keys():  # numbers it has got since
        for number in written[owner].keys() - saved[owner].keys():
            before = getattr(NUMBERS[owner], number)
            saved[owner][number] = ADDED_LATER.get(f"{owner}.{number}", before)
    newer["weight_decay_end"] = saved["weight_decay"]  # it was constant
    assert written == saved | newer
    assert not differences(config, from_saved(to_dict(config), "a run"))


def help_of_train() -> str:
    words = [sys.executable, "-c", "import train; train.main(['--help'])"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_every_earlier_flag_is_there_and_each_section_has_its_heading() -> None:
    text = help_of_train()
    flags = set(re.findall(r"(?<![\w.-])--[a-z][a-z0-9.-]*", text))
    assert set((FIXTURES / "flags.txt").read_text().split()) <= flags
    for section in SECTIONS:
        assert f"─ {section.title} options ─" in text


def test_each_field_has_help_on_one_line() -> None:
    """tyro keeps the line breaks of a docstring, and so tears sentences."""
    import inspect

    for owner in (*SECTIONS, *map(type, NUMBERS.values())):
        source = inspect.getsource(owner)
        for field in vars(owner).get("__annotations__", {}):
            found = re.search(rf'^    {field}: .*\n    """(.*)"""$', source, re.M)
            assert found and found[1].endswith("."), f"{owner.__name__}.{field}"


def parts_of(hint: Any) -> set[Any]:
    """The types inside ``float | None``, ``tuple[float, ...]``; not the words of a Literal."""
    inner = () if get_origin(hint) is Literal else get_args(hint)
    return {hint}.union(*map(parts_of, inner)) if inner else {hint}


OWNERS: dict[str, type] = {"": Config} | {f"{name}.": type(v) for name, v in NUMBERS.items()}
CASES = [(prefix, owner, name) for prefix, owner in OWNERS.items() for name in ranges_of(owner)]


def test_every_number_has_a_range() -> None:
    for prefix, owner in OWNERS.items():
        hints = get_type_hints(owner)
        numbers = {f.name for f in fields(owner) if {int, float} & parts_of(hints[f.name])}
        assert numbers <= ranges_of(owner).keys(), prefix


@pytest.mark.parametrize(("prefix", "owner", "name"), CASES)
def test_numbers_outside_of_their_range_are_refused_by_name(
    prefix: str, owner: type, name: str
) -> None:
    allowed = ranges_of(owner)[name]
    below = allowed.low if allowed.above else allowed.low - 1
    wrong = [below, math.nan, math.inf] + ([allowed.high + 1] if allowed.high < 2**60 else [])
    kind = float if float in parts_of(get_type_hints(owner)[name]) else int
    wrong = [kind(number) for number in wrong if kind is float or math.isfinite(number)]
    method = next((m for m in METHODS if f"{numbers_of(m)}." == prefix), "moco")
    several = isinstance(getattr(owner(), name), tuple)
    for value in wrong:
        given: Any = {name: (value,) if several else value}
        if prefix:
            part = prefix[:-1]
            given = {part: owner(**given)}
        with pytest.raises(ValueError, match=re.escape(flag(prefix + name)) + " must be") as error:
            Config(method=method, **given)
        assert str(allowed) in str(error.value)


def test_ranges() -> None:
    assert 0 not in Range(0, above=True) and 1e-9 in Range(0, above=True)
    assert 0 in Range(0, 1) and 1 in Range(0, 1) and 1.1 not in Range(0, 1)
    assert math.nan not in Range() and math.inf not in Range()
    assert str(Range(0, 1, above=True)) == "above 0 and at most 1" and str(Range(1)) == "at least 1"


def test_every_mixture_has_a_name_and_every_name_a_mixture() -> None:
    assert tuple(UN_MIX) == UN_MIX_NAMES


def test_a_method_is_registered_under_its_module_and_settings() -> None:
    for name, entry in METHODS.items():
        assert entry.path == f"{entry.method.__module__}:{entry.method.__name__}"
        assert entry.method.__module__ == f"models.methods.{numbers_of(name)}"


@pytest.mark.parametrize("name", METHODS)
def test_resolved_settings_leave_nothing_open(name: str) -> None:
    from pipelines.data_facts import IMAGENET

    config = resolve(parse(["--method", name]), IMAGENET, "no")
    open_fields = {f.name for f in fields(ResolvedConfig) if getattr(config, f.name) is None}
    assert not open_fields & vars(ResolvedConfig)["__annotations__"].keys()
    again = from_dict(to_dict(config), "a run")
    assert resolved(again) == config


WORDS = [
    *(
        "--method",
        "swav",
        "--mix=unmix+mixmask",
        "--data",
        "folder:a b",
        "--data-weights",
        "1",
        "2",
    ),
    *("--crops", "2", "4", "--crop-sizes", "32", "16", "--crop-scales", ".2", "1", ".1", ".2"),
    *("--no-zero-init-last", "--lr=0.1", "--batch_size", "64"),
    *("--momentum", "None", "--swav.queue_start_epoch", "3", "--moco.no-mlp", "--aug.flip", "0.25"),
    *("--aug.views", "0.blur=1", "--lr", "0.2", "--name=--lr", "--log-with", "wandb"),
]


def test_the_parser_of_the_named_flags_reads_what_that_of_all_reads() -> None:
    defaults = replace(Config(), seed=3, moco=replace(Config().moco, queue=48))
    config = read_named(WORDS, defaults)
    assert config is not None and config == read_all(WORDS, defaults)
    assert (config.seed, config.moco.queue, config.moco.mlp) == (3, 48, False)
    assert (config.lr, config.name, config.zero_init_last) == (0.2, "--lr", False)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["-h"], ["--nosuch", "1"], ["stray"], ["--lr"], ["--lr", "x"], ["--lr", "1", "2"]],
)
def test_help_and_errors_are_left_to_the_parser_of_all(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_named(words, Config()) is None
    assert capsys.readouterr() == ("", "")


QUICK = [
    ["--help"],
    ["--data", "folder:/nonexistent"],
    ["--val-data", "nowhere.beton"],
    ["--data", "cifar01"],
    ["--methid", "moco"],
    ["--learning-rate", "0.1"],
    ["--lr", "nan"],
    ["--mix", "region", "--batch-size", "24", "--groups", "7", "--dry-run"],
    ["--resume", "nowhere"],
    ["--method", "cmc", "--mix", "region"],
    ["--method", "simclr", "--mix", "clim"],
    ["--method", "moco", "--mix", "clim", "--moco.symmetric"],
    ["--method", "byol", "--mix", "clim"],
    ["--method", "barlow", "--mix", "region", "--mix-draw", "group"],
    ["--method", "simclr", "--accumulate", "2"],
    ["--method", "simclr", "--crops", "3", "--crop-sizes", "32", "--crop-scales", "0.2", "1"],
    ["--method", "simclr", "--resolutions", "32", "24"],
    ["--method", "moco", "--moco.queue", "100", "--dry-run"],
    ["--method", "swav", "--swav.queue", "100"],
    ["--method", "wmse", "--wmse.dim", "128"],
    ["--backbone", "resnet50.a1_in1k"],
    ["--init", "nowhere.pth"],
    ["--init", "timm:resnet18.a1_in1k", "--backbone", "resnet50"],
    ["--multi-scale", "32", "64", "--views", "swav", "--image-size", "224", "--dry-run"],
]


ANSWER = """
import contextlib, io, json, sys, train
answers = []
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = train.main(words)
        except SystemExit as stop:
            status = stop.code or 0
    heavy = sys.modules.keys() & {"torch", "torchvision", "timm", "matplotlib", "numba"}
    answers.append([status, said.getvalue(), sorted(heavy)])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers() -> list[tuple[int, str, list[str]]]:
    """Status, text and heavy packages after each line of ``QUICK``, all in one process."""
    words = [sys.executable, "-c", ANSWER, json.dumps(QUICK)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return list(map(tuple, json.loads(done.stdout)))


@pytest.mark.parametrize("number", range(len(QUICK)), ids=lambda i: " ".join(QUICK[i]))
def test_flags_are_answered_without_torch(
    number: int, answers: list[tuple[int, str, list[str]]]
) -> None:
    status, said, heavy = answers[number]
    assert not heavy
    assert status == (0 if QUICK[number] == ["--help"] else 2), said
    assert "--" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("data", "steps"),
    [("cifar10", 195), ("cifar100", 195), ("stl10", 410), ("tiny-imagenet", 390)],
)
def test_a_plan_needs_no_data(
    data: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import socket

    def no_network(*_: object) -> None:
        raise AssertionError("a plan asks for nothing over the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(dry_run, "memory", lambda *_: (0, 0))
    words = ("--data", data, "--data-dir", str(tmp_path), "--backbone", "test_resnet", "--dry-run")
    assert run_train("--method", "simsiam", *words) == 0
    said = capsys.readouterr().out
    assert f"steps: {steps:,} an epoch" in said and "missing data: " in said
    assert str(tmp_path) in said and not list(tmp_path.iterdir())


def test_a_plan_does_not_fetch_validation_images_either(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data", f"folder:{toy}", "--val-data", "cifar10", "--data-dir", str(tmp_path))
    small = ("--backbone", "test_resnet", "--image-size", "16", "--batch-size", "16")
    assert run_train("--method", "simsiam", *words, *small, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "steps: 2 an epoch" in said and "CIFAR10 is not complete" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batch-size", "10"), "; --batch-size 8 or 16 would fit"),
        (("--log-with", "wandb"), "--log-with wandb: not installed"),
        (("--keep-best", "--val-data", "none"), "--keep-best needs kNN scores, and kNN is off"),
    ],
)
def test_what_a_run_refuses_has_no_plan_either(
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "wandb" else find(n))
    small = ("--backbone", "test_resnet", "--image-size", "16", "--batch-size", "16")
    given = ("--method", "simsiam", "--data", f"folder:{toy}", *small)
    assert run_train(*given, *words, "--dry-run") == 2
    out, err = capsys.readouterr()
    assert said in err and "steps: " not in out


def test_mixed_sizes_in_memory_are_refused_before_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(16):
        Image.new("RGB", (20 + number % 2, 20)).save(tmp_path / f"{number}.png")
    words = ("--data", f"folder:{tmp_path}", "--batch-size", "8", "--loader", "memory")
    assert run_train(*words, "--backbone", "test_resnet", "--dry-run") == 2
    out, err = capsys.readouterr()
    assert "steps: " not in out
    names = f"{tmp_path / '0.png'} (20x20) and {tmp_path / '1.png'} (21x20)"
    assert f"the 16 have 2, as {names}" in err
    assert "--loader ffcv" in err


def test_other_trainers_names_lead_to_flags_of_this_one() -> None:
    known = {flag(f.name) for f in fields(Config)}
    assert set(OTHER_NAMES.values()) <= known and not OTHER_NAMES.keys() & known
    for words in (["--learning-rate", "0.1"], ["--epochs", "3", "--learning_rate=0.1"]):
        with pytest.raises(ValueError, match=r"no --learning.rate; the flag .* is --lr$"):
            parse(words)


def test_a_measured_mean_is_no_difference_of_its_own() -> None:
    def measured(**settings: Any) -> Config:
        return replace(Config(), **{"normalize": "data", "std": (0.2,) * 3, **settings})

    before, now = measured(mean=(0.1,) * 3), measured(mean=(0.3,) * 3)
    assert differences(now, before) == [f"--mean: {(0.1,) * 3} -> {(0.3,) * 3}"]
    other = replace(now, val_fraction=0.2)
    assert differences(other, before) == ["--val-fraction: None -> 0.2"]
    given = replace(before, normalize="published")
    assert len(differences(replace(other, normalize="published"), given)) == 2


@pytest.mark.parametrize(
    ("images", "groups", "way"),
    [(24, 4, "24 images: --batch-size 8 would fit"), (5, 6, "at most 5 fit, in a size that --gr")],
)
def test_a_batch_larger_than_the_data_names_one_that_fits(
    images: int, groups: int, way: str
) -> None:
    given = Config(method="simclr", batch_size=4096 if groups == 4 else 48, groups=groups)
    config = resolve(given, DATASETS["photos"], "no")
    with pytest.raises(ValueError, match=way):
        refuse_large_batch(config, images, 1)
    refuse_large_batch(config, config.batch_size, 1)


@pytest.mark.parametrize(
    ("words", "processes", "ways"),
    [
        ("--batch-size 60", 1, "--batch-size 56 or 64"),
        ("--batch-size 60 --mix unmix", 1, "--batch-size 48 or 64"),
        ("--batch-size 8 --mix unmix", 1, "--batch-size 16"),
        ("--batch-size 60 --mix-groups 9", 2, "--batch-size 54 or 72"),
        ("--groups 3", 1, "--batch-size 255 or 258"),
        ("--groups 3 --mix-groups 1 --order blocks", 1, "--batch-size 255 or 258"),
        ("--groups 4 --mix region", 8, "--groups 8"),
        ("--mix-groups 9 --mix region", 4, "--mix-groups 8 or 16"),
        ("--batch-size 1", 1, "--batch-size 8"),
    ],
)
def test_a_batch_that_cannot_be_shared_out_names_the_nearest_that_can(
    monkeypatch: pytest.MonkeyPatch, words: str, processes: int, ways: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    given = ["--method", "simclr", *words.split()]
    with pytest.raises(ValueError, match=f"; {ways} would fit$"):
        preflight(parse(given))
    named, *sizes = ways.replace(" or ", " ").split()
    for size in sizes:
        preflight(parse([*given, named, size]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--batch-size 1000", "300 images: --batch-size 296 would fit"),
        ("--batch-size 320 --groups 16 --mix region", "300 images: --batch-size 288 would fit"),
    ],
)
def test_a_batch_larger_than_the_data_names_the_largest_that_fits(words: str, said: str) -> None:
    config = resolve(parse(["--method", "simclr", *words.split()]), DATASETS["photos"], "no")
    with pytest.raises(ValueError, match=said):
        refuse_large_batch(config, 300, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--val-fraction 1.5", "--val-fraction must be above 0 and below 1, not 1.5"),
        ("--val-fraction 0", "--val-fraction must be above 0 and below 1, not 0"),
        ("--lr 1e400", "--lr must be finite and at least 0, not inf"),
        ("--momentum inf", "--momentum must be at least 0 and at most 1, not inf"),
    ],
)
def test_the_range_that_is_named_lacks_the_number_that_is_refused(words: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        parse(words.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--method SimCLR", "--method SimCLR: did you mean simclr? The choices are moco, "),
        ("--method=moco_v3", "--method moco_v3: did you mean moco-v3? "),
        ("--method jigsaw", "--method jigsaw: The choices are moco, simclr, "),
        (
            "--loader DALI",
            "--loader DALI: did you mean dali? The choices are auto, memory, ffcv, dali",
        ),
        ("--views moco", "--views moco: did you mean moco-v"),
        ("--swav.reverse papers", "--swav.reverse papers: did you mean paper? "),
        (
            "--dry-run=true",
            "--dry-run takes no value, as 'true': --dry-run turns it on, --no-dry-run off",
        ),
        ("--keep-best yes --seed 1", "--keep-best takes no value, as 'yes'"),
        ("--crop-sizes 32,16", "spaces, as --crop-sizes 32 16"),
        ("--mean .1,.2, .3", "spaces, as --mean .1 .2"),
        ("--mix SDMP", "no mixture 'SDMP'; did you mean sdmp?"),
    ],
)
def test_a_value_that_a_flag_does_not_take_leads_to_one_that_it_takes(
    words: str, said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(words.split())
    for taken in (["--method", "simclr", "--dry-run", "--views", "None"], ["--crop-sizes", "9"]):
        refuse_other_values(taken)


def test_a_choice_that_a_recipe_gets_wrong_is_named_with_the_recipe() -> None:
    with pytest.raises(ValueError, match=r"^a\.yaml: --method SimCLR: did you mean simclr"):
        from_dict({"method": "SimCLR"}, "a.yaml")

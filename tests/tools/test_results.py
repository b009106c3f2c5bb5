"""tools/results*.sh: commands parse, interrupted runs continue, and finished ones are scored."""

import json
import os
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

from tools import collect
from tools.config.cli import parse, to_dict
from tools.config.config import Config
from tools.runs.record import read_record
from tools.runs.scores import settings_of

ROOT = Path(__file__).parents[2]
PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$LOG"
[[ $1 == train.py && $* == *"$STOP"* ]] && exit 75
exit 0
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caller's environment out."""
    for name in ("EPOCHS", "SEEDS", "STAGES", "FLAGS", "COLLECT", "MINUTES", "DATA"):
        monkeypatch.delenv(name, raising=False)


def script(
    folder: Path, *words: str, stop: str = "nothing", name: str = "results.sh"
) -> tuple[int, list[list[str]], str]:
    """Run it with a Python that notes its arguments; return status, commands and errors."""
    python, log = folder / "python", folder / "log"
    python.write_text(PYTHON)
    python.chmod(0o755)
    log.write_text("")
    given = {"PYTHON": str(python), "LOG": str(log), "OUTPUT": str(folder), "STOP": stop}
    done = subprocess.run(
        [ROOT / "tools" / name, *words], env=os.environ | given, capture_output=True, text=True
    )
    return done.returncode, [line.split() for line in log.read_text().splitlines()], done.stderr


@pytest.mark.parametrize(("pair", "variants"), [("simclr", 2), ("swav", 2), ("clim", 5)])
def test_every_command_parses(
    pair: str, variants: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    status, commands, _ = script(tmp_path, pair, "60", "0", "1")
    assert status == 0
    trained = [words[1:] for words in commands if words[0] == "train.py"]
    assert len(trained) == 2 * variants
    for words in trained[:variants]:
        config = parse([word for word in words if word not in ("--resume", "auto")])
        assert config.epochs == 60 and config.data == "cifar10" and config.precision == "bf16"
        told = config.clim.rule if pair == "clim" and config.mix == "clim" else config.mix
        assert config.name == f"{pair}-{told}-60-seed{config.seed}"
    scored = [words[1] for words in commands if words[0] == "eval.py"]
    assert scored == ["knn", "linear"] * 2 * variants
    compared = [words for words in commands if words[0] == "tools/compare.py"]
    assert len(compared) == (4 if pair == "clim" else 2)


def test_a_slice_that_ends_is_said_and_nothing_is_scored(tmp_path: Path) -> None:
    status, commands, said = script(tmp_path, "moco", "60", "0", "1", stop="unmix-60-seed0")
    assert status == 75 and "moco-unmix-60-seed0" in said
    assert [words[0] for words in commands] == ["train.py"] * 2
    assert script(tmp_path, "moco", "60")[0] == 2
    assert "no pair mico" in script(tmp_path, "mico", "60", "0")[2]


def test_what_is_done_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("none", "unmix"):
        run = tmp_path / f"byol-{name}-60-seed0"
        run.mkdir()
        (run / "report.html").touch()
    (tmp_path / "byol-none-60-seed0/eval.jsonl").write_text('{"protocol": "knn"}\n')
    monkeypatch.setenv("MINUTES", "0")
    status, commands, said = script(tmp_path, "byol", "60", "0")
    assert (status, commands) == (75, []) and "ended in its scores" in said
    monkeypatch.setenv("MINUTES", "1")
    status, commands, _ = script(tmp_path, "byol", "60", "0")
    assert status == 0 and "train.py" not in {words[0] for words in commands}
    assert [words[1] for words in commands if words[0] == "eval.py"] == ["linear", "knn", "linear"]


@cache
def settings(words: tuple[str, ...]) -> Config:
    """The settings of a train.py command."""
    return parse(list(words))


def trained(words: list[str]) -> Config:
    """A train.py command's settings; those with other epochs, seeds and names are parsed once."""
    at = [words.index(f"--{flag}") + 1 for flag in ("epochs", "seed", "name")]
    rest = [word for i, word in enumerate(words) if i not in at and i + 1 not in at]
    epochs, seed, name = (words[i] for i in at)
    same = settings(tuple(word for word in rest if word not in ("--resume", "auto")))
    return replace(same, epochs=int(epochs), seed=int(seed), name=name)


def host(folder: Path, stop: str = "nothing") -> tuple[int, list[list[str]], str]:
    return script(folder, stop=stop, name="results_host.sh")


def test_the_host_runs_pairs_first_and_then_equal_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SEEDS", "0 1")
    status, commands, _ = host(tmp_path)
    assert status == 0
    runs = []
    for words in (words[1:] for words in commands if words[0] == "train.py"):
        config = trained(words)
        assert (config.subset, config.subset_seed, config.batch_size) == (1000, 0, 256)
        assert not config.report and config.warmup_epochs == 5
        runs.append((config.method, config.mix, config.epochs, config.seed))
        assert config.name == "{}-{}-{}-seed{}".format(*runs[-1])
    first = [("none", 150, 0), ("unmix", 150, 0), ("none", 150, 1), ("unmix", 150, 1)]
    longer = {"simclr": 225, "moco": 206, "byol": 225, "swav": 225}
    main = [
        (method, *which)
        for method, base in longer.items()
        for which in [*first, ("none", base, 0), ("none", base, 1)]
    ]
    assert runs[: len(main)] == main
    assert {run[1] for run in runs[len(main) :]} == {"global", "region"}
    assert len(runs) == len(set(runs)) == len(main) + 16
    kinds = [words[1] if words[0] == "eval.py" else words[0] for words in commands]
    assert kinds[:4] == ["train.py", "knn", "linear", "tools/collect.py"]
    compared = [words for words in commands if words[0] == "tools/compare.py"]
    bases = [word for words in compared for word in words if word.startswith("epochs=")]
    assert bases[:8:2] == ["epochs=150", "epochs=225", "epochs=150", "epochs=206"]


def test_the_host_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGES", "pair")
    monkeypatch.setenv("SEEDS", "0")
    status, commands, _ = host(tmp_path, stop="simclr-unmix-150-seed0")
    assert status == 75
    assert [words[0] for words in commands].count("train.py") == 2
    status, commands, _ = host(tmp_path)
    trained = [words for words in commands if words[0] == "train.py"]
    assert status == 0 and len(trained) == 1 and "simclr-unmix-150-seed0" in trained[0]
    assert trained[0][-2:] == ["--resume", "auto"]
    assert len((tmp_path / "simclr-unmix-150-seed0.commands").read_text().splitlines()) == 2
    assert sum(words[0] == "tools/compare.py" for words in commands) == 2
    monkeypatch.setenv("STAGES", "mocco")
    assert "no stage mocco" in host(tmp_path)[2]


def test_what_is_collected_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    config = Config(method="simclr", data="cifar10", seed=3, subset=1000.0)
    (run / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    metrics = [{"step": 0, "epoch": 0, "knn_top1": 0.3, "loss": None, "lr": 0.1}]
    metrics += [{"step": 39, "epoch": 1, "loss": 5.0}, {"step": 390, "epoch": 10, "knn_top1": 0.4}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (run / "eval.jsonl").write_text('{"protocol": "linear", "step": 390, "linear_top1": 0.5}\n')
    (tmp_path / "run.commands").write_text("abc\ttrain.py --seed 3\n")
    assert collect.main([str(run), str(tmp_path / "kept")]) == 0
    kept = json.loads((tmp_path / "kept/run.json").read_text())
    assert [(x["epoch"], x["knn_top1"]) for x in kept["metrics"]] == [(0, 0.3), (10, 0.4)]
    assert kept["scores"][0]["linear_top1"] == 0.5 and kept["seed"] == 3
    assert kept["settings"]["subset"] == 1000 and "seed" not in kept["settings"]
    assert kept["starts"] == [{"commit": "abc", "command": "train.py --seed 3"}]
    (run / "config.yaml").write_text(yaml.safe_dump(to_dict(Config(**{**vars(config), "seed": 4}))))
    assert collect.collected(run)["settings_sha256"] == kept["settings_sha256"]
    assert collect.main([str(tmp_path), str(tmp_path / "kept")]) == 2


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/results").rglob("*.json")), ids=lambda p: p.stem
)
def test_a_committed_run_can_be_read_again(path: Path) -> None:
    """As by tools/compare.py: nothing that its result depends on has another name or value now."""
    record = read_record(path)
    held = json.loads(path.read_text())
    assert settings_of(record.config) | held["settings"] == settings_of(record.config)
    assert record.config.seed == held["seed"] and record.name == path.stem

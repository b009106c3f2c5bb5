"""eval.py embed, and published backbones as baselines: the right rows, pixels and refusals."""

from __future__ import annotations

import csv
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from runs import reset_accelerate, run_main, two_steps
from timm.data import create_transform, resolve_model_data_config

import eval as evaluation
from pipelines.datasets import open_data
from pipelines.decoders.build import build_decoder
from pipelines.evaluation import CenterCrop, evaluation_batches
from tools.analysis.loaded_run import encode, open_runs
from tools.evaluation import embed
from tools.evaluation.published import open_published


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_steps("simclr", toy, tmp_path_factory.mktemp("runs"))


def run_eval(*words: object) -> int:
    return run_main(evaluation.main, *map(str, words))


def test_rows_are_the_data_s_with_names_and_labels(run: Path, toy: Path, tmp_path: Path) -> None:
    assert run_eval("embed", run, tmp_path / "a.npz", "--split", "val") == 0
    found = np.load(tmp_path / "a.npz")
    files = sorted(path.relative_to(toy) for path in (toy / "val").rglob("*.jpg"))
    assert found["names"].tolist() == [str(file) for file in files]
    assert found["classes"].tolist() == ["class0", "class1"]
    assert [f"class{label}" for label in found["labels"]] == [f.parent.name for f in files]
    reset_accelerate()
    rows = np.arange(12)[::-1]  # in another order, by the code of the figures
    other = encode(open_runs([run])[0], "val", rows).features[::-1]
    assert found["features"].dtype == np.float32
    np.testing.assert_allclose(found["features"], other, rtol=1e-4, atol=1e-5)
    settings = json.loads(str(found["settings"]))
    assert (settings["step"], settings["split"], settings["loader"]) == (2, "val", "memory")
    assert (settings["image_size"], settings["resize"]) == (16, 18)


def test_a_csv_holds_the_same_numbers(run: Path, toy: Path, tmp_path: Path) -> None:
    """Of images without labels, in a folder of their own."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in sorted((toy / "val").rglob("*.jpg")):
        (bare / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    for name in ("a.csv", "a.npz"):
        assert run_eval("embed", run, tmp_path / name, "--data", f"folder:{bare}") == 0
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found = np.load(tmp_path / "a.npz")
    assert list(lines[0]) == ["name", "label", *(f"f{i}" for i in range(96))]
    assert [line["name"] for line in lines] == found["names"].tolist()
    assert {line["label"] for line in lines} == {"-1"}
    numbers = np.array([[line[f"f{i}"] for i in range(96)] for line in lines], np.float32)
    np.testing.assert_array_equal(numbers, found["features"])


def test_a_table_has_the_columns_of_the_classes_too() -> None:
    found = embed.Embeddings(
        np.array([[1, 2], [3, 4]], np.float32), ["a", "b"], np.array([1, -1]), ("x", "y"), {"k": 1}
    )
    columns = {name: list(values) for name, values in found.columns().items()}
    assert columns == {
        "name": ["a", "b"], "label": [1, -1], "class": ["y", ""], "f0": [1, 3], "f1": [2, 4],
    }  # fmt: skip


def test_parquet_goes_through_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a stand-in, since pyarrow is no requirement."""
    written: dict[str, Any] = {}

    class Table:
        def __init__(self, columns: dict[str, Any]) -> None:
            written["columns"] = list(columns)

        def replace_schema_metadata(self, metadata: dict[str, str]) -> Table:
            written["metadata"] = metadata
            return self

    parquet = types.SimpleNamespace(write_table=lambda table, path: path.write_text("table"))
    arrow = types.ModuleType("pyarrow")
    arrow.table, arrow.parquet = Table, parquet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", arrow)
    one = embed.Embeddings(np.ones((1, 2), np.float32), ["a"], np.array([0]), (), {"step": 2})
    embed.write_parquet(tmp_path / "a.parquet", one)
    assert written["columns"] == ["name", "label", "f0", "f1"]
    assert json.loads(written["metadata"]["settings"]) == {"step": 2}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("RUN", "a.txt"), ".npz, .csv, .parquet"),
        (("RUN",), "OUT.npz"),
        (("RUN", "old.npz"), "--overwrite"),
        (("RUN", "a.parquet"), "pyarrow"),
        (("RUN", "a.npz", "--val-data", "photos"), "--split val"),
        (("RUN", "a.npz", "--random"), "--backbone"),
        (
            ("a.npz", "--backbone", "timm:test_resnet", "--data", "photos", "--init", "RUN"),
            "a run is scored itself",
        ),
        (("nowhere", "a.npz"), "nowhere"),
        (("RUN", "a.npz", "--backbone", "timm:resnet18", "--data", "photos"), "leave out RUN"),
        (("a.npz", "--backbone", "timm:resnet18"), "--data"),
        (("a.npz", "--backbone", "resnet18", "--data", "photos"), "timm:NAME"),
        (("a.npz", "--backbone", "timm:resnet81", "--data", "photos"), "resnet18"),
        (("a.npz", "--backbone", "timm:resnet18.best", "--data", "photos"), "tv_in1k"),
        (("a.npz", "--backbone", "timm:resnet18", "--data", "photos", "--checkpoint", "last"),
         "--checkpoint"),
    ],
)  # fmt: skip
def test_refusals_lead_on(
    words: tuple[str, ...],
    named: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    Path("old.npz").write_text("mine")
    assert run_eval("embed", *(run if word == "RUN" else word for word in words)) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert named in said and "Traceback" not in said
    assert Path("old.npz").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


# --- published backbones -------------------------------------------------------------------------


def test_a_baseline_sees_what_timm_s_own_transform_makes(tmp_path: Path) -> None:
    published = open_published("timm:test_vit", random=True)
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    (tmp_path / "all").mkdir()
    smooth.resize((300, 220), Image.Resampling.BICUBIC).save(tmp_path / "all" / "a.png")
    facts = published.facts
    table = open_data(f"folder:{tmp_path / 'all'}", tmp_path)
    decoder = build_decoder(
        *("memory", table), interpolation=published.interpolation, workers=1,
        device=torch.device("cpu"), on_bad="stop",
    )  # fmt: skip
    view = CenterCrop(facts.image_size, facts.eval_resize or 0, facts.mean, facts.std)
    ours, _ = next(evaluation_batches(table, decoder, view, 1, torch.device("cpu")))
    config = resolve_model_data_config(published.method.backbone)
    with Image.open(tmp_path / "all" / "a.png") as image:
        theirs = create_transform(**config, is_training=False)(image)[None]
    difference = (ours - theirs).abs() * torch.tensor(facts.std)[:, None, None] * 255
    assert ours.shape == theirs.shape and difference.mean() < 2
    assert torch.equal(published.method.features(theirs), published.method.backbone(theirs))


def test_weights_come_from_a_file_that_timm_wrote(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features are those of the model that wrote it; kNN and linear score it and write a line."""
    torch.manual_seed(3)
    made = timm.create_model("test_resnet").eval()
    torch.save(made.state_dict(), tmp_path / "weights.pth")
    create = timm.create_model

    def with_file(name: str, pretrained: bool, **options: Any) -> Any:
        assert pretrained
        overlay = {"file": str(tmp_path / "weights.pth")}
        return create(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)

    monkeypatch.setattr(timm, "create_model", with_file)
    method = open_published("timm:test_resnet").method
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = made.forward_head(made.forward_features(x), pre_logits=True)
        torch.testing.assert_close(method.features(x), expected)
    words = ("--backbone", "timm:test_resnet", "--data", f"folder:{toy}", "--workers", "1")
    assert run_eval("knn", *words, "--k", "5", "--output", tmp_path / "scores") == 0
    assert run_eval("linear", *words, "--epochs", "1") == 0
    assert "timm:test_resnet" in capsys.readouterr().out
    (line,) = (tmp_path / "scores" / "eval.jsonl").read_text().splitlines()
    assert json.loads(line)["backbone"] == "timm:test_resnet" and json.loads(line)["knn_top1"] >= 0


def test_without_a_connection_a_sentence_says_so(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host\nmore about it")

    monkeypatch.setattr(timm, "create_model", offline)
    words = ("--backbone", "timm:resnet18.a1_in1k", "--data", f"folder:{toy}")
    assert run_eval("knn", *words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("eval.py: --backbone timm:resnet18.a1_in1k") and "HF_HOME" in said
    assert "--random" in said and "--init" not in said
    assert "no route to host" in said


def test_weights_of_a_file_are_loaded_into_the_architecture(tmp_path: Path) -> None:
    """In the layout of MoCo's released checkpoints."""
    torch.manual_seed(3)
    made = timm.create_model("resnet10t", num_classes=0).eval()
    state = {f"module.encoder_q.{name}": value for name, value in made.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "moco.pth")
    published = open_published("timm:resnet10t", init=str(tmp_path / "moco.pth"))
    assert published.loaded is not None and "moco.pth" in published.loaded
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(published.method.features(x), made(x))


def test_untrained_weights_repeat_themselves() -> None:
    first, again = (open_published("timm:test_resnet", random=True).method for _ in range(2))
    x = torch.ones(1, 3, 64, 64)
    assert torch.equal(first.features(x), again.features(x))

"""Both ways of driving DALI cut the same windows, and the benchmark prints the speed of each."""

import json
from pathlib import Path

import pytest
import torch

from tools.benchmarks import dali
from tools.benchmarks.dali import Arguments, Dynamic, ExternalSource, prepare

pytest.importorskip("nvidia.dali")


def test_the_same_windows_from_both(toy: Path) -> None:
    setting = prepare(Arguments(data=f"folder:{toy / 'train'}", batch_size=8, size=16, workers=2))
    assert len(setting.table) == 40
    dynamic, pipeline = Dynamic(setting, cut_on_host=False), ExternalSource(setting)
    for ours, theirs in zip(dynamic.run(6), pipeline.run(6), strict=True):  # into a second pass
        assert [view.shape for view in ours] == [(8, 16, 16, 3)] * 2
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
    dynamic.close()
    pipeline.close()


def test_command(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    flags = ["--data", f"folder:{toy / 'train'}", "--batch-size", "8", "--size", "16",
             "--seconds", "0.01", "--repeats", "2", "--json", str(out)]  # fmt: skip
    assert dali.main(flags) == 0
    found = json.loads(out.read_text())
    rates, spread = found["images_per_second"], found["spread"]
    assert {dali.WINDOWS, dali.PIPELINE, dali.DECODE} <= set(rates)
    assert all(low <= rates[name] <= high for name, (low, high) in spread.items())
    assert found["dynamic_vs_external_source"] == pytest.approx(
        rates[dali.WINDOWS] / rates[dali.PIPELINE]
    )
    assert "external_source" in capsys.readouterr().out


def test_wrong_options_are_named() -> None:
    for wrong in ({"repeats": 0}, {"workers": 9999}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
            Arguments(data="photos", **wrong)
    assert dali.main(["--data", "folder:nowhere"]) == 2

"""The batch norm benchmark on the host: its rows, and the traffic it counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tools.benchmarks import batchnorm


def test_prints_what_exists_on_the_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    assert batchnorm.main(["--repeats", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())["rows"]
    names = ("batch", "groups, PyTorch", "sync, plain")
    assert [row["case"] for row in found] == list(names) * len(batchnorm.HOST_SHAPES)
    batch, groups, sync = found[:3]
    assert batch["launches"] == 2 and batch["passes"] == pytest.approx(8, abs=0.1)
    assert groups["launches"] > 16 and groups["passes"] > 11  # eight norms each way, and copies
    assert sync["launches"] > 20 and sync["passes"] > 20
    assert all(row["milliseconds"] > 0 and row["case"] in printed for row in found)
    assert {row["timed"] for row in found} == {"host"} and "timed" in printed


def test_other_groups_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        batchnorm.main(["--groups", "5"])
    assert "--groups must divide 32, not be 5" in capsys.readouterr().err


def test_views_and_allocations_move_nothing() -> None:
    x = torch.zeros(4, 6)
    with batchnorm.Traffic() as count:
        torch.empty_like(x.t()[1:])
    assert (count.operations, count.bytes) == (0, 0)
    with batchnorm.Traffic() as count:
        x.add(x)
    assert (count.operations, count.bytes) == (1, 3 * x.nbytes)

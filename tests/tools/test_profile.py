"""The profiler measures a small run, names its bottleneck, and refuses flags that make no sense."""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL, TINY, run_main

from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table
from tools import profile_throughput
from tools.benchmarks import harness
from tools.profiling import clock, measure, rates, stages
from tools.profiling.bottleneck import Bottleneck, number
from tools.profiling.io import PAGE, measure_reads

QUICK = ("--steps", "2", "--repeats", "1")
KEYS = (
    *("loader_images_per_second", "step_images_per_second", "end_to_end_images_per_second"),
    *("decode_ceiling_images_per_second", "data_wait", "bottleneck", "stages", "spread"),
    *("peak_host_bytes", "peak_device_bytes", "machine", "command", "commit", "config"),
)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step where there are several outside of tests."""
    monkeypatch.setattr(rates, "WARMUP", 1)
    monkeypatch.setattr(rates, "TRACED", 1)
    monkeypatch.setattr(clock, "LONG_ENOUGH", 0.01)


def run_profile(*flags: str) -> int:
    """Call the profiler as a fresh process would find it."""
    return run_main(profile_throughput.main, *flags)


def flags(toy: Path) -> tuple[str, ...]:
    small = ("--image-size", "8", "--batch-size", "8", "--groups", "2")
    return (
        "--data",
        f"folder:{toy}",
        "--method",
        "simclr",
        *TINY,
        *SMALL["simclr"],
        *small,
        *QUICK,
    )


def test_measures_stages_and_rates(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ffcv")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    own = ("--json", str(out), "--plot", str(plot), "--sweep-workers", "1,2")
    given = ("--loader", "ffcv", "--mix", "unmix", "--views", "byol")
    assert run_profile(*flags(toy), *given, *own) == 0
    result = json.loads(out.read_text())
    assert not set(KEYS) - set(result)
    for name in ("loader", "step", "end_to_end", "decode_ceiling"):
        assert result[f"{name}_images_per_second"] > 0
        low, high = result["spread"][f"{name}_images_per_second"]
        assert 0 < low <= result[f"{name}_images_per_second"] <= high
    assert 0 <= result["data_wait"] <= 1
    assert [point["workers"] for point in result["sweep_workers"]] == [1, 2]
    parts = ("convert_flip_normalise", "brightness", "hue", "gray", "blur", "solarize")
    assert {f"finish.{name}" for name in parts} <= set(result["stages"])
    times = ("read", "decode", "decode_crop", "finish", "mixture")
    for name in (*times, "forward", "backward", "optimizer"):
        assert result["stages"][name] > 0, name
    assert result["peak_host_bytes"] > 2**20
    assert result["config"]["method"] == "simclr"
    assert "--sweep-workers 1,2" in result["command"]
    with Image.open(plot) as image:
        assert image.width > 600
    out = capsys.readouterr().out
    assert "bound by" in out and "read off the disk: " in out
    assert ("read_cold" in result["stages"]) == (result["read_cold_bytes_per_second"] is not None)
    assert result["finisher_bytes"] is None  # counted on a GPU alone
    assert result["timed"] == dict.fromkeys(result["stages"], "host") and "timed" in out


@pytest.mark.parametrize(("device", "drawing", "finishing"), [
    ("cpu", "host", "host"),
    ("cuda", "host", "launches"),
])  # fmt: skip
def test_a_stage_says_what_its_time_is_of(device: str, drawing: str, finishing: str) -> None:
    """Of a GPU's stages, those of the host are told from those between CUDA events."""
    measured = stages.Stages.__new__(stages.Stages)  # without a loader on such a device
    measured.clock, measured.on_host = clock.Clock(torch.device(device)), {"draw"}
    assert measured.timed("draw") == drawing and measured.timed("finish") == finishing
    assert harness.timed_by_clock(device).startswith(f"timed: {finishing}")


def test_decoded_data_has_no_decode_ceiling(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    given = ("--loader", "memory", "--json", str(out), "--trace", str(tmp_path / "trace"))
    given += ("--output", str(tmp_path / "runs"))
    assert run_profile(*flags(toy), *given) == 0
    result = json.loads(out.read_text())
    assert result["decode_ceiling_images_per_second"] is None
    assert "decode" not in result["stages"] and "mixture" not in result["stages"]
    assert json.loads((tmp_path / "trace" / "trace.json").read_text())["traceEvents"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--sweep-workers", "1,none"), "--sweep-workers"),
        (("--sweep-workers", "0"), "--sweep-workers"),
        (("--steps", "0"), "--steps"),
        (("--repeats", "0"), "--repeats"),
        (("--json", "nowhere/out.json"), "nowhere"),
        (("--no-such-flag", "1"), "no-such-flag"),
        (("--batch-size", "15"), "--batch-size"),
        (("--data", "folder:nowhere"), "nowhere"),
        (("--device-paths", "fused"), "--device-paths fused needs a CUDA device"),
    ],
)
def test_bad_flags(
    toy: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], said: str
) -> None:
    assert run_profile(*flags(toy), *given) == 2
    assert said in capsys.readouterr().err


STAGES = {"read": 0.01, "decode": 0.2, "decode_crop": 0.3, "finish": 0.05}


@pytest.mark.parametrize(
    ("loader", "step", "shared", "expected", "said"),
    [
        (100.0, 300.0, False, 100.0, ("bound by decode", "4 more workers would balance it")),
        (300.0, 100.0, False, 100.0, ("bound by the training step", "1 worker of the 2 would do")),
        (100.0, 300.0, True, 75.0, ("bound by decode", "6 workers would keep up")),
        (300.0, 100.0, True, 75.0, ("bound by the training step", "75% is the step's")),
    ],
)
def test_verdict(
    loader: float, step: float, shared: bool, expected: float, said: tuple[str, ...]
) -> None:
    verdict = Bottleneck(
        loader, step, 70.0, STAGES, shared=shared, on_gpu=not shared, workers=2, batch_size=8
    )
    assert verdict.expected == pytest.approx(expected)
    for words in said:
        assert words in verdict.sentence()
    assert "Data not in memory" not in verdict.sentence()


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "would also be"), (0.01, "would not be")])
def test_verdict_on_cold_data(seconds: float, said: str) -> None:
    stages = STAGES | {"read_cold": seconds}
    verdict = Bottleneck(100, 300, 70, stages, shared=True, on_gpu=False, workers=2, batch_size=8)
    sentence = verdict.sentence()
    assert said in sentence and f"one thread makes {number(8 / seconds)} images/s" in sentence


@dataclasses.dataclass(frozen=True)
class Forgetful(Arrays):
    """A source that notes what it was told to forget, and reads it slowly once."""

    cold: set[int] = dataclasses.field(default_factory=set)

    def forget(self, rows: np.ndarray) -> None:
        self.cold.update(rows.tolist())

    def pixels(self, row: int) -> np.ndarray:
        time.sleep(0.002 if row in self.cold else 0)
        self.cold.discard(row)
        return np.ones(PAGE * (row + 1), np.uint8)


def test_reads_are_cold_and_then_warm() -> None:
    side = np.full(6, 8, np.int32)
    source = Forgetful("slow", np.zeros((6, 8, 8, 3), np.uint8))
    table = Table(np.zeros(6, np.int64), side, side, source)
    reads = measure_reads(table, [np.array([0, 4]), np.array([5, 1])])
    assert reads.num_bytes == [6 * PAGE, 8 * PAGE]
    assert min(reads.cold) > 0.004 > max(reads.warm)
    assert reads.was_cold
    assert reads.bytes_per_second == 14 * PAGE / sum(reads.cold)
    assert not dataclasses.replace(reads, cold=reads.warm).was_cold


def test_what_is_told_of_bytes() -> None:
    counted = measure.augment_bytes((3_000_000, 2_000_000), 0.001)
    result = {"stages": {"read": 1.0}, "read_cold_bytes_per_second": None}
    cold, moved = profile_throughput.traffic(result | {"finisher_bytes": counted})
    assert "not measurable here" in cold
    assert "3.0 MB a step, 1.50 times the least possible, at 3 GB/s" in moved

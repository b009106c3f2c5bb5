"""``tools/gpu_check.sh`` without a GPU: known parts, a rehearsal, and what its summary says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.benchmarks.gpu_summary import EXPECTED, RATE, RATIOS, Expected, predictions, summary

ROOT = Path(__file__).parents[2]
SCRIPTS = ("tools/gpu_check.sh", "tools/gpu_check_dali.sh")


def check(out: Path, parts: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(out), "PARTS": parts}
    words = ["bash", str(ROOT / SCRIPTS[0])]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def test_a_rehearsal_of_two_parts_runs_one_and_names_the_other_s_command(tmp_path: Path) -> None:
    done = check(tmp_path, "host versions compile")
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "versions.json").read_text())
    assert facts["gpu"] is None and not facts["missing"]
    text = (tmp_path / "summary.md").read_text()
    assert re.search(r"\| versions +\| +ran \|", text)
    assert re.search(r"\| compile +\| +needs a GPU \|", text)
    assert "compile: would run `python tools/profile_throughput.py" in text
    assert text in done.stdout


def test_an_unknown_part_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = check(tmp_path, "host warp")
    assert done.returncode == 2 and "no part warp; the parts are versions images" in done.stderr
    assert not list(tmp_path.iterdir())


def test_every_part_has_a_command_and_every_number_a_part() -> None:
    text = (ROOT / SCRIPTS[0]).read_text()
    (listed,) = re.findall(r"^names=\(([^)]*)\)", text, re.MULTILINE)
    names = listed.split()
    body = text[text.index("choose() {") : text.index("\nrun() {")]
    assert names == re.findall(r"^    ([\w-]+)\) limit=\d+", body, re.MULTILINE)
    assert {one.part for one in EXPECTED} <= set(names)
    assert {part for pair in RATIOS for part in pair[:2]} <= set(names)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_sound_bash(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(ROOT / script)]).returncode == 0


def written(folder: Path, part: str, **numbers: Any) -> None:
    (folder / f"{part}.json").write_text(json.dumps(numbers))


def test_the_summary_compares_with_what_was_expected(tmp_path: Path) -> None:
    facts = {"gpu": "H", "cores": 16, "python": "3.12", "packages": {"torch": "2.11"}}
    written(tmp_path, "versions", **facts, missing=[], fused_finisher_usable=False)
    for part, rate in (("moco-8", 6000.0), ("moco-1", 12000.0), ("simclr-bf16", 2700.0)):
        spread = {RATE: [rate - 1, rate + 1]}
        written(tmp_path, part, **{RATE: rate, "end_to_end_images_per_second": 9.0}, spread=spread)
    report = '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1">'
    report += '<testcase name="a"/><testcase name="b"><failure/></testcase></testsuite>'
    (tmp_path / "law8.xml").write_text(report + "</testsuites>")
    parts = {
        "versions": 0,
        "doctor": 0,
        "law8": 1,
        "moco-8": 0,
        "moco-1": 0,
        "simclr-bf16": 0,
        "ddp": 124,
    }
    rows = [f"{part}\t{code}\t3\t60\tpython x" for part, code in parts.items()]
    (tmp_path / "status.tsv").write_text("\n".join([*rows, "tests\tleft-out\t0\t400\tpython y"]))
    line = {"name": "law 8", "state": "ok", "difference": None, "found": "no step waited"}
    path = {"name": "sync", "state": "used", "difference": 1e-6, "found": ""}
    times = {"milliseconds": 0.25, "plain_milliseconds": None}
    written(tmp_path, "doctor", results=[path | times, line | times | {"milliseconds": None}])
    text = "\n".join(summary(tmp_path))
    for expected in (
        "doctor: `python x`",
        "| sync  |  used |            1.0e-06 |          0.25 |          |                |",
        "| law 8 |    ok |                    |               |          | no step waited |",
        "H, 16 cores, Python 3.12, torch 2.11; commit",
        "**no** (no Triton",
        "**failed with status 1**: 1 passed, 1 failed, 1 skipped, **b**",
        "**out of time**",
        "left out: no time",
        "**0.60 of the lowest expected**",
        "| 8 groups against 1 |     0.50 |",
    ):
        assert expected in text
    assert json.loads((tmp_path / "law8.json").read_text())["failures"] == ["b"]


@pytest.mark.parametrize(
    ("plain", "kernels", "groups", "sync"),
    [
        (850.0, 2.1, "**Within 15%", "**Under 3"),
        (849.0, 2.0, "More than 15% is lost", "At least 3, as predicted"),
    ],
)
def test_the_summary_says_whether_the_kernels_of_batch_norm_were_needed(
    tmp_path: Path, plain: float, kernels: float, groups: str, sync: str
) -> None:
    found: dict[str, dict[str, Any]] = {
        "versions": {"gpu": "H"},
        "moco-8-plain": {RATE: plain},
        "moco-1": {RATE: 1000.0},
        "batchnorm": {"rows": [
            {"case": "sync, plain", "milliseconds": 2.0},
            {"case": "sync, plain", "milliseconds": 4.0},
            {"case": "sync, kernels", "milliseconds": kernels},
        ]},
    }  # fmt: skip
    first, second = predictions(found)
    assert groups in first and sync in second
    assert not list(predictions(found | {"versions": {"gpu": None}}))
    assert not list(predictions({"versions": {"gpu": "H"}}))


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (74.0, "**0.74 of the lowest expected**"),
        (75.0, "as expected"),
        (250.0, "as expected"),
        (252.0, "**1.26 of the highest expected**"),
    ],
)
def test_a_quarter_either_way_is_as_expected(rate: float, said: str) -> None:
    assert Expected("part", "what", 100.0, 200.0).verdict(rate) == said

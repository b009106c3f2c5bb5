"""Law 4 in full: every method and mixture, in steps and in runs, on two and four processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import launch_cases
import method_cases
import pytest
import runs
from processes import in_group


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of four processes found in the cases of test_distributed.py."""
    folder = tmp_path_factory.mktemp("four")
    return in_group(4, folder, method_cases.work, method_cases.CASES, False)


@pytest.mark.parametrize("case", method_cases.CASES, ids=str)
def test_four_processes_equal_one(case: method_cases.Case, four: list[dict[str, Any]]) -> None:
    found = [result["cases"][str(case)] for result in four]
    method_cases.assert_law_4(method_cases.train(case), found)


@pytest.fixture(scope="module", params=[2, 4], ids="{} processes".format)
def group(
    request: pytest.FixtureRequest, toy: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """Where a group of processes trained, and the rows that each of them saw."""
    folder = tmp_path_factory.mktemp("group")
    return folder, in_group(request.param, folder, launch_cases.work, toy, folder, runs.CASES)


@pytest.mark.parametrize("case", runs.CASES, ids="-".join)
def test_many_processes_train_as_one(
    case: tuple[str, str], toy: Path, tmp_path: Path, group: tuple[Path, list[dict[str, Any]]]
) -> None:
    launch_cases.assert_law_4(toy, group[0], tmp_path, group[1], case)

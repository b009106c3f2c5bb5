"""Any flags: the settings fit together, or the run is refused by the name of a flag.

``tests/faults/combinations.py`` trains with them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flag_cases import COMBINATIONS, command
from hypothesis import HealthCheck, given, settings
from runs import run_train


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(combination=COMBINATIONS)
def test_flags_fit_or_are_refused_by_name(
    toy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    combination: tuple[str, str, dict[str, int]],
) -> None:
    argv = command(toy, tmp_path, *combination)
    status = run_train(*argv, "--dry-run")
    said = capsys.readouterr()
    assert status in (0, 2)
    if status:
        assert re.search(r"--[a-z]", said.err), said.err
    else:
        assert "steps: " in said.out
    assert not (tmp_path / "run").exists()

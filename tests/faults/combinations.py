"""Any combination of flags either trains two steps or is refused at once by the name of a flag."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from attempts import consumed, finish, nothing, start
from flag_cases import COMBINATIONS, command
from hypothesis import HealthCheck, given, settings


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(combination=COMBINATIONS)
def test_flags_train_or_are_refused_by_name(
    toy: Path, combination: tuple[str, str, dict[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        status = finish(start(command(toy, where, *combination), where / "rows", nothing))
        said, rows = (where / "rows.txt").read_text(), consumed(where / "rows")
        assert "Traceback" not in said, said
        if status == 0:
            assert [step for step, _ in rows] == [0, 1]
        else:
            assert status == 2 and re.search(r"--[a-z]", said), said
            assert not rows and not (where / "run").exists(), said

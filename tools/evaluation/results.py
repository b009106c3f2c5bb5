"""Lines of eval.jsonl, each with its time, commit and command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator


def append(run: Path, line: Mapping[str, Any], accelerator: Accelerator) -> None:
    """Append a line to the run's eval.jsonl, in the main process.

    Raises:
        OSError: the folder cannot be written to.
    """
    if accelerator.is_main_process:
        run.mkdir(parents=True, exist_ok=True)
        with (run / "eval.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def stamp(command: str) -> dict[str, Any]:
    """Return the time, the commit and the command of a measurement."""
    from tools.runs.machine import commit  # it imports torch

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": now, "commit": commit() or None, "command": command}


def percent(share: float) -> str:
    """Return a share in [0, 1] as text, as 12.3 %."""
    return f"{100 * share:.1f} %"

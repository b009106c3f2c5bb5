"""Print which requirements are installed or missing, and the exact fixes.

    python tools/doctor.py [--json]

The exit status is 0 if ``make train`` would work. Only Python itself is needed.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a script: the project may not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.diagnostics.checks import ROOT, Check, is_installed, run_checks
from tools.runs.command import command

VENV_PYTHON = ROOT / ".venv" / "bin" / "python"


def works(checks: list[Check]) -> bool:
    """Whether ``make train`` would work."""
    return all(check.ok for check in checks if check.needed)


def state(check: Check) -> str:
    """Return one word for a check."""
    return "ok" if check.ok else "MISSING" if check.needed else "absent"


def print_plain(checks: list[Check]) -> None:
    """Print a line for each check, and its fix under it."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{state(check):8} {check.name:{width}}  {check.found}")
        if not check.ok:
            print(f"{'':8} {'':{width}}  fix: {check.fix}")


def print_table(checks: list[Check]) -> None:
    """Print a colored table, with the complete fixes below it, to be copied."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colors = {"ok": "green", "MISSING": "bold red", "absent": "yellow"}
    table = Table("", "what", "found")
    for check in checks:
        word = state(check)
        table.add_row(f"[{colors[word]}]{word}[/]", escape(check.name), escape(check.found))
    console = Console()
    console.print(table)
    for check in checks:
        if not check.ok:
            console.print(f"{check.name}: {check.fix}", soft_wrap=True, markup=False)


def verdict(checks: list[Check]) -> str:
    """Return one line: whether the default run would work."""
    if works(checks):
        absent = [check.name for check in checks if not check.ok]
        rest = f"; it does without {', '.join(absent)}" if absent else ""
        return f"'make train' will work{rest}."
    missing = [check.name for check in checks if check.needed and not check.ok]
    return f"'make train' will not work: {', '.join(missing)}."


def main(argv: list[str]) -> int:
    """Check, print, and return the exit status."""
    return command("tools/doctor.py", lambda: run(argv))


def run(argv: list[str]) -> int:
    """Check and print; return 1 if ``make train`` would not work.

    Raises:
        ValueError: there is an unknown argument.
    """
    if set(argv) & {"-h", "--help"}:
        print(textwrap.dedent(__doc__ or "").strip())
        return 0
    unknown = [word for word in argv if word != "--json"]
    if unknown:
        raise ValueError(f"{unknown[0]}: no such argument; --json is the only one")
    if VENV_PYTHON.exists() and Path(sys.prefix) != ROOT / ".venv" and not is_installed("torch"):
        # Started with the system's Python: check .venv's, which 'make train' uses.
        os.execv(VENV_PYTHON, [str(VENV_PYTHON), __file__, *argv])
    checks = run_checks()
    if "--json" in argv:
        lines = [{**asdict(check), "state": state(check)} for check in checks]
        print(json.dumps({"ok": works(checks), "checks": lines}, indent=2))
    else:
        show = print_table if sys.stdout.isatty() and is_installed("rich") else print_plain
        show(checks)
        print(verdict(checks))
    return 0 if works(checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

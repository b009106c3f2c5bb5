"""Check this machine, a data set, or the cache; print what is missing, and the exact fixes.

    python tools/doctor.py [--json [FILE]]
    python tools/doctor.py --device [--json FILE]
    python tools/doctor.py --data PATH [--deep]
    python tools/doctor.py --cache [--empty]

Without a flag, print which requirements are installed or missing. The exit status is 0 if
``make train`` would work. Only Python itself is needed.

--device  prove the code for a GPU on this machine in about a minute: each path against plain
          PyTorch, that no step waits for the device, the loader's overlap, a run of 20 steps; the
          exit status is 1 if one of them fails (a path that falls back is no failure)
--data    examine a folder, or whatever train.py --data takes: kinds, sizes, duplicates, damaged
          files, and flags that fit; the exit status is 1 if there are problems
--deep    decode every image too
--cache   list the prepared data that runs have left
--empty   remove it, except what a run uses
--json    print the requirements, or the results of --device, as JSON; with FILE, write them there
"""

from __future__ import annotations

import argparse
import json
import logging
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


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the flags.

    Raises:
        ValueError: they are unknown, or do not go together.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--data", action="append")
    parser.add_argument("--json", nargs="?", const="-")
    for name in ("deep", "cache", "empty", "device"):
        parser.add_argument(f"--{name}", action="store_true")
    try:
        flags, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if unknown:
        raise ValueError(f"{unknown[0]}: no such argument; --help lists them")
    if flags.deep and flags.data is None:
        raise ValueError("--deep decodes the images of --data PATH")
    if flags.empty and not flags.cache:
        raise ValueError("--empty removes what --cache lists: give both")
    return flags


def print_data(places: list[str], *, deep: bool) -> int:
    """Examine data sets and print the report; return 1 if there are problems."""
    from pipelines.data_spec import join_sum
    from tools.diagnostics.data import check_data

    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # the report has the rest
    report = check_data(join_sum(places), deep=deep)
    print(report.text())
    return 1 if report.problems else 0


def print_cache(*, empty: bool) -> int:
    """List the cache, or remove what no run uses."""
    from tools.diagnostics.cached import empty_cache, list_cache

    print(empty_cache() if empty else list_cache())
    return 0


def prove_device(json_file: str | None) -> int:
    """Run the code for a GPU and print a table; return 1 if something failed."""
    from tools.diagnostics.device import as_json, as_text, check_device, succeeded

    if json_file != "-":
        print("proving the code for a GPU on this machine, in about a minute", flush=True)
    results = check_device()
    if json_file != "-":
        print(as_text(results))
    write_json(as_json(results), json_file)
    return 0 if succeeded(results) else 1


def write_json(text: str, file: str | None) -> None:
    """Write JSON to a file, or to stdout if the file is "-"; None: nowhere."""
    if file == "-":
        print(text)
    elif file is not None:
        Path(file).write_text(text + "\n")


def run(argv: list[str]) -> int:
    """Check and print; return 1 if ``make train`` would not work, or the data has problems.

    Raises:
        ValueError: there is an unknown argument, or no folder for the file of --json.
    """
    if set(argv) & {"-h", "--help"}:
        print(textwrap.dedent(__doc__ or "").strip())
        return 0
    if VENV_PYTHON.exists() and Path(sys.prefix) != ROOT / ".venv" and not is_installed("torch"):
        # Started with the system's Python: check .venv's, which 'make train' uses.
        os.execv(VENV_PYTHON, [str(VENV_PYTHON), __file__, *argv])
    flags = parse(argv)
    if flags.json and not (folder := Path(flags.json).absolute().parent).is_dir():
        raise ValueError(f"--json {flags.json}: there is no folder {folder}")
    if flags.data is not None:
        return print_data(flags.data, deep=flags.deep)
    if flags.cache:
        return print_cache(empty=flags.empty)
    if flags.device:
        return prove_device(flags.json)
    checks = run_checks()
    if flags.json:
        lines = [{**asdict(check), "state": state(check)} for check in checks]
        write_json(json.dumps({"ok": works(checks), "checks": lines}, indent=2), flags.json)
    if flags.json != "-":
        show = print_table if sys.stdout.isatty() and is_installed("rich") else print_plain
        show(checks)
        print(verdict(checks))
    return 0 if works(checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

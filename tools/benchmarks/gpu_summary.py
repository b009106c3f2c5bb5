"""The summary of ``tools/gpu_check.sh``: ``python -m tools.benchmarks.gpu_summary FOLDER``.

It reads the folder's status.tsv and each part's JSON, and writes summary.md: the section of
docs/performance.md. A rate is compared with what was expected from counts of operations and bytes,
before any GPU had run this code; the expectations are rough, so within 25 % counts as expected.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.benchmarks.harness import table
from tools.runs.machine import commit

MARGIN = 0.25
RATE = "step_images_per_second"


@dataclass(frozen=True)
class Expected:
    """A rate in source images/s that was worked out for one H200 with 16 cores."""

    part: str
    what: str
    low: float
    high: float

    def verdict(self, measured: float) -> str:
        """Return whether a rate is as expected, or how far outside."""
        if measured < self.low * (1 - MARGIN):
            return f"**{measured / self.low:.2f} of the lowest expected**"
        if measured > self.high * (1 + MARGIN):
            return f"**{measured / self.high:.2f} of the highest expected**"
        return "as expected"


EXPECTED = (
    Expected("moco-8", "MoCo ResNet-18, 32 px, symmetric, Un-Mix, 8 groups, bf16", 10_000, 13_000),
    Expected("moco-1", "the same, 1 group", 10_000, 13_000),
    Expected("moco-one-way", "MoCo ResNet-18, 32 px, one way, no mixture, bf16", 14_000, 25_000),
    Expected("simclr-bf16", "SimCLR ResNet-50, 224 px, bf16", 1_700, 2_200),
    Expected("simclr-fp16", "the same, fp16", 1_700, 2_500),
    Expected("compile", "the first line, --compile", 10_000, 18_000),
)
RATIOS = (
    ("moco-8", "moco-1", "8 groups against 1", "1 if group norm costs nothing"),
    ("moco-8-plain", "moco-1", "the same by PyTorch", "under 0.85 if its loop limits the step"),
    ("compile", "moco-8", "compiled against not", "1.2 to 1.4"),
    ("simclr-fp16", "simclr-bf16", "fp16 against bf16", "1.05 to 1.15: cuDNN's NHWC batch norm"),
)
NEAR = 0.15
"""If 8 groups by PyTorch make a step no slower than this, their loop does not limit it."""
LEAST_GAIN = 3
"""How many times as fast as plain PyTorch sync norm's kernels were expected to be, at least."""
STATUS = {
    "0": "ran", "124": "**out of time**", "137": "**out of time**", "device": "needs a GPU",
    "left-out": "left out: no time",
}  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Write and print the summary of a folder; return the exit status."""
    folder = Path(words[0])
    text = "\n".join(summary(folder)) + "\n"
    (folder / "summary.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def summary(folder: Path) -> Iterator[str]:
    """Yield the lines of the summary."""
    status = [line.split("\t") for line in (folder / "status.tsv").read_text().splitlines()]
    found = {part: numbers(folder, part) for part, *_ in status}
    yield from (heading(found), "", table(("part", "result", "s", "of at most"), [
        (part, result(code, found[part]), seconds, limit)
        for part, code, seconds, limit, _ in status
    ]))  # fmt: skip
    rows = list(rate_rows(found))
    if rows:
        yield from ("", table(("source images/s, the step alone", "measured", "min-max",
                               "end to end", "expected", "verdict"), rows))  # fmt: skip
    rows = list(ratio_rows(found))
    if rows:
        yield from ("", table(("ratio of steps", "measured", "expected"), rows))
    for line in predictions(found):
        yield from ("", line)
    for part, *_, command in status:
        text = (folder / f"{part}.txt").read_text() if (folder / f"{part}.txt").is_file() else ""
        if text.startswith("would run: "):
            yield from ("", f"{part}: would run `{command}`")
        elif found[part].get("table"):
            yield from ("", f"{part}: `{command}`", "", found[part]["table"])


def numbers(folder: Path, part: str) -> dict[str, Any]:
    """Return a part's numbers, {} if it has none; tests' are counted, tables taken as printed."""
    path, xml, text = (folder / f"{part}.{end}" for end in ("json", "xml", "txt"))
    found: dict[str, Any] = {}
    if xml.is_file():
        found = counts(xml)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    elif path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
    if part == "doctor" and "results" in found:
        found["table"] = doctor_table(found["results"])
    if part in ("augment", "batchnorm") and text.is_file():
        lines = text.read_text(encoding="utf-8").splitlines()
        found["table"] = "\n".join(line for line in lines if line.startswith("|"))
    return found


def doctor_table(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of ``doctor --device``; its times are of small samples, so of launches."""
    rows = []
    for one in results:
        difference, *times = (one[k] for k in ("difference", "milliseconds", "plain_milliseconds"))
        numbers = ["" if difference is None else f"{difference:.1e}"]
        numbers += ["" if time is None else f"{time:.2f}" for time in times]
        rows.append((one["name"], one["state"], *numbers, one["found"]))
    columns = ("", "state", "largest difference", "ms (launches)", "plain ms", "found")
    return table(columns, rows)


def counts(xml: Path) -> dict[str, Any]:
    """Return how many tests of a pytest report passed, failed and were skipped."""
    suites = list(ET.parse(xml).getroot().iter("testsuite"))
    total = {name: sum(int(suite.get(name, 0)) for suite in suites)
             for name in ("tests", "failures", "errors", "skipped")}  # fmt: skip
    failed = total["failures"] + total["errors"]
    names = [
        case.get("name", "")
        for case in ET.parse(xml).getroot().iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    passed = total["tests"] - failed - total["skipped"]
    return {"passed": passed, "failed": failed, "skipped": total["skipped"], "failures": names}


def heading(found: dict[str, dict[str, Any]]) -> str:
    """Return the line on the machine."""
    facts = found.get("versions", {})
    if not facts:
        return f"Commit {commit()}; the part `versions` did not run."
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items() if number)
    text = (
        f"{facts['gpu'] or 'no GPU'}, {facts['cores']} cores, Python {facts['python']}, {packages}"
    )
    if facts["missing"]:
        text += f"; **missing packages: {', '.join(facts['missing'])}**"
    return f"{text}; commit {commit()}. The fused finisher can be built: " + (
        "yes." if facts["fused_finisher_usable"] else "**no** (no Triton, C compiler or Python.h)."
    )


def result(code: str, found: dict[str, Any]) -> str:
    """Return what became of a part, in a cell."""
    text = STATUS.get(code, f"**failed with status {code}**")
    if "passed" in found:
        text += f": {found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped"
        text += "".join(f", **{name}**" for name in found["failures"][:3])
    if "largest_relative_difference" in found:
        text += f": losses differ by {found['largest_relative_difference']:.2%} at most"
    if "backend" in found:
        text += f": {found['backend']}, loss {found['losses'][-1]:.3f}"
    return text


def rate_rows(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each profile; without a GPU there is nothing to expect."""
    on_gpu = bool(found.get("versions", {}).get("gpu"))
    for one in EXPECTED:
        values = found.get(one.part, {})
        if RATE not in values:
            continue
        low, high = values["spread"][RATE]
        yield (
            one.what if on_gpu else f"{one.part}, tiny, on the host",
            f"{values[RATE]:,.0f}",
            f"{low:,.0f}-{high:,.0f}",
            f"{values['end_to_end_images_per_second']:,.0f}",
            f"{one.low:,.0f}-{one.high:,.0f}" if on_gpu else "",
            one.verdict(values[RATE]) if on_gpu else "",
        )  # fmt: skip


def ratio_rows(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each pair of profiles; without a GPU there is nothing to expect."""
    on_gpu = bool(found.get("versions", {}).get("gpu"))
    for part, base, what, expected in RATIOS:
        a, b = found.get(part, {}), found.get(base, {})
        if RATE in a and RATE in b:
            yield what, f"{a[RATE] / b[RATE]:.2f}", expected if on_gpu else ""


def predictions(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield whether a GPU confirms why batch norm has kernels of its own, a line each."""
    if not found.get("versions", {}).get("gpu"):
        return
    plain, one = found.get("moco-8-plain", {}), found.get("moco-1", {})
    if RATE in plain and RATE in one:
        share = plain[RATE] / one[RATE]
        yield (
            f"Groups: with PyTorch's batch norm, 8 groups reach {share:.2f} of the rate of 1. "
            + (
                f"**Within {NEAR:.0%}: the prediction that the loop over groups limits the step is "
                "wrong.**"
                if share >= 1 - NEAR
                else f"More than {NEAR:.0%} is lost: the loop limits the step, as predicted."
            )
        )
    ms = {"sync, plain": 0.0, "sync, kernels": 0.0}
    for row in found.get("batchnorm", {}).get("rows", ()):
        if row["case"] in ms:
            ms[row["case"]] += row["milliseconds"]
    if all(ms.values()):
        gain = ms["sync, plain"] / ms["sync, kernels"]
        yield f"Sync norm: plain PyTorch takes {gain:.1f} times as long as CUDA's kernels. " + (
            f"**Under {LEAST_GAIN}: the predicted cost of plain sync norm is overstated.**"
            if gain < LEAST_GAIN
            else f"At least {LEAST_GAIN}, as predicted."
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

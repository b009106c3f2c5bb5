"""The log of a run: metrics.jsonl, summary.csv, trackers and progress.

``metrics.jsonl`` holds one object a line: ``step`` (finished steps), ``epoch`` (finished epochs, a
fraction), ``world_size`` and the logged values; NaN and infinity are null. ``summary.csv`` holds
one line for each epoch, a summary of the epoch's lines.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tools.runs.metrics import SUMMARY, cut_metrics, cut_summary, read_metrics, summarize

T = TypeVar("T")


QUIET_SECONDS = 30.0
"""Longest time without a line of progress where there is no bar."""


class RunLogger:
    """The log of one run; its methods do nothing except in the first process.

    ``start_step`` is the number of finished steps. Later lines of an earlier attempt are cut off
    (with 0, all lines), so that the log continues exactly. ``console`` is for tests.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        *,
        total_steps: int,
        steps_per_epoch: int,
        start_step: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._active = accelerator.is_main_process
        if not self._active:
            return
        self._accelerator = accelerator
        self._summary = folder / "summary.csv"
        self._steps_per_epoch = steps_per_epoch
        self._folder, self._total = folder, total_steps
        self._start = start_step
        self._clock = clock
        self._began = self._shown_at = clock()

        self._open(start_step, start_step or -1)
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._bar = self._start_bar() if self._console.is_terminal else None

    def _open(self, step: int, last: int) -> None:
        """Cut off the lines after step ``last``; the next lines continue after ``step``."""
        path = self._folder / "metrics.jsonl"
        cut_metrics(path, last)
        cut_summary(self._summary, last)
        begin = step - step % self._steps_per_epoch  # of the current epoch
        self._epoch_lines = [line for line in read_metrics(path) if line["step"] > begin]
        self._metrics = path.open("a", encoding="utf-8")

    def rewind(self, step: int) -> None:
        """Cut off the lines after ``step`` finished steps, from which the run continues."""
        if self._active:
            self._metrics.close()
            self._open(step, step)

    def _start_bar(self) -> Progress:
        bar = Progress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.description} {task.completed:,}/{task.total:,}"),
            TextColumn("{task.fields[text]}"),
            TextColumn("{task.fields[eta]}"),
            console=self._console,
            expand=True,
        )
        bar.add_task("step", total=self._total, completed=self._start, text="", eta="", epoch="")
        bar.start()
        self._show(bar, self._start)
        return bar

    def tick(self, step: int) -> None:
        """Show ``step`` finished steps; cheap enough for every step.

        The bar moves. Without one, a line appears if there was none for ``QUIET_SECONDS``; it has
        no loss, for which the host would wait for the device.
        """
        if not self._active:
            return
        if self._bar:
            self._show(self._bar, step)
        elif self._clock() - self._shown_at >= QUIET_SECONDS:
            self._show_line(step)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Show numbers measured after ``step`` finished steps, and write none to metrics.jsonl."""
        if not self._active:
            return
        if self._bar:
            self._show(self._bar, step, describe(values))
        else:
            self._show_line(step, describe(values))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line of numbers measured after ``step`` finished steps, and show it."""
        if not self._active:
            return
        line = {
            "step": step,
            "epoch": round(step / self._steps_per_epoch, 4),
            **{name: finite(value) for name, value in values.items()},
            "world_size": self._accelerator.num_processes,
        }
        self._epoch_lines.append(line)
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
        self._metrics.flush()
        self._accelerator.log({k: v for k, v in line.items() if v is not None}, step=step)
        text = describe(values)
        if self._bar:
            self._show(
                self._bar, step, describe(values, ("loss", "lr", "images_per_second", "data_wait"))
            )
            if "knn_top1" in values:
                self._print(f"step {step:,}  {text}")
        else:
            self._show_line(step, text)

    def epoch(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Write summary.csv's line of the epoch that ended at ``step``, after its evaluation.

        ``values`` (column -> number) override those of the log lines.
        """
        if not self._active:
            return
        begin = step - self._steps_per_epoch
        lines = [line for line in self._epoch_lines if line["step"] > begin]
        line = summarize(lines) | dict(values or {})
        line |= {"epoch": step // self._steps_per_epoch, "step": step}
        is_new = not self._summary.exists()
        with self._summary.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, SUMMARY, extrasaction="ignore", lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow({k: "" if finite(v) is None else v for k, v in line.items()})
        self._epoch_lines.clear()

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        if self._active:
            self._print(text)

    def watch(self, items: Sequence[T], what: str) -> Iterator[T]:
        """Yield the items and show their progress in a bar below the run's."""
        bar = self._bar if self._active else None
        if bar is None:
            yield from items
            return
        task = bar.add_task(what, total=len(items), text="", eta="", epoch="")
        for item in items:
            yield item
            bar.advance(task)
        bar.remove_task(task)

    def close(self) -> None:
        """Stop the bar and close the files."""
        if self._active:
            if self._bar:
                self._bar.stop()
            self._metrics.close()

    def _print(self, text: str) -> None:
        try:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        except OSError:
            if not self._console.is_terminal:
                raise
            # the terminal is gone; its SIGHUP is about to stop the run

    def _show_line(self, step: int, text: str = "") -> None:
        head = f"epoch {self._epoch_text(step)}  step {step:,}/{self._total:,}"
        self._print("  ".join((head, *([text] if text else []), f"ETA {self._eta(step)}")))
        self._shown_at = self._clock()

    def _show(self, bar: Progress, step: int, text: str = "") -> None:
        fields: dict[str, Any] = {"text": text} if text else {}
        epoch, eta = f"ep {self._epoch_text(step)}", f"ETA {self._eta(step)}"
        bar.update(bar.task_ids[0], completed=step, epoch=epoch, eta=eta, **fields)

    def _epoch_text(self, step: int) -> str:
        """Return the epoch of the last finished step, or the first before any step."""
        epoch, epochs = (math.ceil(n / self._steps_per_epoch) for n in (step, self._total))
        return f"{max(epoch, 1)}/{epochs}"

    def _eta(self, step: int) -> str:
        """Return the remaining time at the mean speed since the start, evaluations included."""
        done = step - self._start
        if done <= 0:
            return "-"
        left = (self._clock() - self._began) / done * (self._total - step)
        return str(timedelta(seconds=round(left)))


def finite(value: float) -> float | None:
    """Return the number, or None for NaN and infinity, which JSON cannot represent."""
    return value if math.isfinite(value) else None


FORMATS = {
    "loss": "loss {:.4f}",
    "lr": "lr {:.2e}",
    "images_per_second": "{:,.0f} img/s",
    "data_wait": "wait {:.0%}",
    "knn_top1": "kNN top-1 {:.1%}",
}
"""Formats of the values on the console; data_wait is the share of time spent waiting for data."""


def describe(values: Mapping[str, float], names: Iterable[str] = tuple(FORMATS)) -> str:
    """Format the named values, where they are finite, as a line of text."""
    known = [name for name in names if math.isfinite(values.get(name, math.nan))]
    return "  ".join(FORMATS[name].format(values[name]) for name in known)

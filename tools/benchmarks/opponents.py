"""Loaders of other projects whose packages are not ours: each runs in a process of its own.

Their packages go into a folder of their own, for the interpreter and the torch of this environment:

    python -m uv pip install --target FOLDER --no-deps --require-hashes -r requirements-bench.txt
    python tools/bench.py loaders --opponents FOLDER --data folder:PATH

``opponents_worker.py`` is that process. It answers with a line for each finished batch, so the
harness times it as any other contender; the batches themselves stay in the process.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pipelines.data_facts import IMAGENET
from pipelines.decoders import MissingPackage
from pipelines.sources.table import Table
from tools.benchmarks.setting import Setting

ROOT = Path(__file__).resolve().parents[2]
WORKER = "tools.benchmarks.opponents_worker"
PACKAGES = {
    "spdl": ("spdl-core", "simplejpeg"),
    "spdl-scaled": ("spdl-core", "simplejpeg"),
    "torchcodec": ("torchcodec",),
    "litdata": ("litdata",),
    "mosaicml": ("mosaicml-streaming",),
}
"""Opponents, and the packages that are measured."""
NAMES = tuple(PACKAGES)
PATIENCE = 20
"""Seconds that a process may take to end its workers."""
ERROR = re.compile(r"[\w.]+(Error|Exception)\b")
JPEG = b"\xff\xd8"
MISSING = (
    "give --opponents FOLDER, made by: python -m uv pip install --target FOLDER --no-deps "
    "--require-hashes -r requirements-bench.txt"
)


@dataclass(frozen=True)
class Bucket:
    """A bucket of a store that speaks S3, for an opponent's own format."""

    folder: Path
    """The folder that it serves."""
    url: str
    """s3://NAME"""
    endpoint: str
    """http://HOST:PORT"""


def of_s3(bucket: Bucket | None) -> dict[str, str]:
    """Return the variables from which boto3 and obstore take a bucket's server."""
    if bucket is None:
        return {}
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "benchmark")
    where = {"S3_ENDPOINT_URL": bucket.endpoint, "AWS_ENDPOINT_URL": bucket.endpoint}
    return keys | where | {"AWS_ALLOW_HTTP": "true", "AWS_DEFAULT_REGION": "us-east-1"}


class Opponent:
    """A loader in ``opponents_worker.py``, measured by the lines that it writes."""

    def __init__(self, setting: Setting, name: str, bucket: Bucket | None = None) -> None:
        if setting.opponents is None:
            raise MissingPackage(MISSING)
        for package in PACKAGES[name]:
            if package not in versions(setting.opponents):
                raise MissingPackage(f"{package} is not in {setting.opponents}: {MISSING}")
        self.name, self.order = name, setting.order
        self.warm, self.tail = 2 * setting.workers, setting.workers
        self.folder = tempfile.TemporaryDirectory(prefix="unmix-bench-")
        try:
            self._start(setting, bucket)
        except BaseException:
            self.folder.cleanup()
            raise

    def _start(self, setting: Setting, bucket: Bucket | None) -> None:
        root = Path(self.folder.name)
        own = (bucket.folder if bucket else root) / f"{self.name}.own"
        own.mkdir(exist_ok=True)
        job = {
            "name": self.name,
            "files": write_files(setting.table, root),
            "folder": str(own),
            "remote": f"{bucket.url}/{own.name}" if bucket else "",
            "views": [asdict(view) for view in setting.views],
            "mean": list(IMAGENET.mean) if setting.complete else [],
            "std": list(IMAGENET.std) if setting.complete else [],
            "interpolation": setting.interpolation,
            "workers": setting.workers,
            "batch_size": setting.order.batch_size,
        }
        path = os.pathsep.join([str(setting.opponents), str(ROOT)])
        with (root / "errors").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", WORKER],
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **of_s3(bucket)},
                cwd=root,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            self._ask(job)
            self._expect("ready")
        except OSError as error:  # this contender is left out
            self._end()
            raise ValueError(str(error)) from error

    def run(self, steps: int) -> Iterator[object]:
        """Yield the number of each batch when it is finished."""
        self._ask([self.order.rows(step).tolist() for step in range(steps)])
        for step in range(steps):
            self._expect("batch")
            yield step
        self._expect("end")

    def _ask(self, request: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended; its answer will be missing
            print(json.dumps(request), file=wanted(self.process.stdin), flush=True)

    def _expect(self, answer: str) -> None:
        given = wanted(self.process.stdout).readline().strip()
        if given == answer:
            return
        if given:
            raise OSError(f"{self.name}: its process answers {given!r} instead of {answer!r}")
        text = (Path(self.folder.name) / "errors").read_text(errors="replace").strip()
        raise OSError(f"{self.name}: its process ended: {last_words(text)}")

    def _end(self) -> None:
        """End the process, which ends with its input."""
        with contextlib.suppress(BrokenPipeError):
            wanted(self.process.stdin).close()
        try:
            self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        wanted(self.process.stdout).close()

    def close(self) -> None:
        """End the process and remove its files."""
        self._end()
        self.folder.cleanup()


def last_words(text: str) -> str:
    """Return the exception of a traceback, else the last line."""
    lines = text.splitlines()
    errors = (line for line in reversed(lines) if ERROR.match(line))
    return next(errors, lines[-1] if lines else "without a word")


def wanted(pipe: IO[str] | None) -> IO[str]:
    """Return a pipe of a process that was started with it."""
    assert pipe is not None
    return pipe


def write_files(table: Table, folder: Path) -> list[str]:
    """Write the rows' encoded bytes to files, which are then in the page cache; return their paths.

    Raises:
        ValueError: a row is no JPEG image, which is all that some opponents read.
    """
    files = []
    for row in range(len(table)):
        data = table.source.encoded(row)
        if data is None or data[:2].tobytes() != JPEG:
            raise ValueError(f"takes JPEG images only, unlike {table.source.name(row)}")
        files.append(str(folder / f"{row}.jpg"))
        data.tofile(files[-1])
    return files


def versions(folder: Path) -> dict[str, str]:
    """Return the versions of the opponents' packages in a folder, and of the numpy they use."""
    names = {name for packages in PACKAGES.values() for name in packages} | {"numpy"}
    found = importlib.metadata.distributions(path=[str(folder)])
    all_of_them = {d.metadata["Name"].replace("_", "-"): d.version for d in found}
    return {name: all_of_them[name] for name in sorted(names & set(all_of_them))}

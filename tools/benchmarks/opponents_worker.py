"""Loaders of other projects, in a process of their own that ``opponents.py`` starts.

The packages' pins differ from ours (MosaicML streaming needs numpy below 2.2), so they are in a
folder of their own, which comes first on this process's path. Each loader is used as its
documentation recommends; all decode an image once, at full size unless their name says otherwise,
and cut all views from it with torchvision's operations.

The first line of stdin is a job. Each further line is a list of steps, and a step a list of rows.
The process writes a line ``ready`` to stdout when the loader exists, then ``batch`` for each
finished batch, and ``end`` after the last.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from pipelines.settings import Interpolation
from pipelines.views import View
from tools.benchmarks.torchvision_views import each_view, torchvision_view

Steps = list[list[int]]
Views = Callable[[Any], list[Tensor]]
"""An image, by PIL or a uint8 tensor (3, h, w) -> its views, (3, size, size) each."""
Run = Callable[[Steps], Iterator[Any]]

LONG = 1 << 20
"""Images of an endless pass: as many as no measurement needs."""
PREFETCH = 3
"""Finished batches that SPDL keeps (the default of its sink)."""


@dataclass(frozen=True)
class Job:
    """What a loader is to do."""

    name: str
    files: list[str]
    """A JPEG file for each row."""
    folder: str
    """For the project's own format: empty, or what an earlier process wrote there."""
    remote: str
    """The URL of ``folder`` in a store of which each run is a cold pass; empty: on this disk."""
    views: list[dict[str, Any]]
    """The fields of each ``View``."""
    mean: list[float]
    """Of the normalization; empty for crops only."""
    std: list[float]
    interpolation: Interpolation
    workers: int
    batch_size: int

    def transforms(self) -> list[v2.Compose]:
        """Return the transform of each view."""
        given = self.interpolation, self.mean, self.std
        return [torchvision_view(View(**one), *given) for one in self.views]


# ------------------------------------------------------------------------------------------ SPDL


def spdl(job: Job, *, scaled: bool = False) -> Run:
    """SPDL's thread pipeline with simplejpeg: a task makes a batch, as its guide advises.

    ``scaled`` decodes at 1/2, 1/4 or 1/8 where every window is at least that much larger than its
    view, so that the windows are drawn before the image is decoded.
    """
    import simplejpeg
    from spdl.pipeline import PipelineBuilder

    draw = [View(**one) for one in job.views]
    finish = [v2.Compose(whole.transforms[1:]) for whole in job.transforms()]

    def read(file: str) -> list[Tensor]:
        data = Path(file).read_bytes()
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        boxes = [box(height, width, view) for view in draw]
        least = [min(b[2:]) / view.size for b, view in zip(boxes, draw, strict=True)]
        factor = max(f for f in (1, 2, 4, 8) if f <= max(1, min(least))) if scaled else 1
        image = simplejpeg.decode_jpeg(
            data, min_height=-(-height // factor), min_width=-(-width // factor), min_factor=factor
        ) if factor > 1 else simplejpeg.decode_jpeg(data)  # fmt: skip
        cut = [
            window(image, b, factor, view.size, job.interpolation)
            for b, view in zip(boxes, draw, strict=True)
        ]
        return [one(crop) for one, crop in zip(finish, cut, strict=True)]

    def batch(rows: list[int]) -> list[Tensor]:
        return default_collate([read(job.files[row]) for row in rows])

    def run(steps: Steps) -> Iterator[Any]:
        builder = PipelineBuilder().add_source(steps).pipe(batch, concurrency=job.workers)
        pipeline = builder.add_sink(PREFETCH).build(num_threads=job.workers)
        with pipeline.auto_stop():
            yield from pipeline

    return run


def box(height: int, width: int, view: View) -> tuple[int, int, int, int]:
    """Draw a window as torchvision does: top, left, height, width."""
    like = torch.empty(0, height, width)
    drawn = v2.RandomResizedCrop(view.size, view.scale, view.ratio).make_params([like])
    return drawn["top"], drawn["left"], drawn["height"], drawn["width"]


def window(
    image: NDArray[np.uint8],
    box: Sequence[int],
    factor: int,
    size: int,
    interpolation: Interpolation,
) -> Tensor:
    """Cut and resize a window of the undivided image, (3, size, size) uint8.

    By PyTorch, whose antialiased uint8 resize costs a third of PIL's; without antialiasing, and by
    area, by OpenCV, which is faster still.
    """
    import cv2

    top, left, height, width = (round(number / factor) for number in box)
    part = image[top : top + max(height, 1), left : left + max(width, 1)]
    if interpolation in ("bilinear", "area"):
        way = cv2.INTER_LINEAR if interpolation == "bilinear" else cv2.INTER_AREA
        return torch.from_numpy(cv2.resize(part, (size, size), interpolation=way)).permute(2, 0, 1)
    mode = "bicubic" if interpolation == "bicubic" else "bilinear"
    planes = torch.from_numpy(part).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(planes, (size, size), mode=mode, antialias=True)[0]


# ------------------------------------------------------------------- loaders with worker processes


class Decoded(Dataset):
    """Files that ``decode`` makes tensors."""

    def __init__(self, files: list[str], decode: Callable[[str], Tensor], views: Views) -> None:
        self.files, self.decode, self.views = files, decode, views

    def __getitem__(self, row: int) -> list[Tensor]:
        """Return the views of a row."""
        return self.views(self.decode(self.files[row]))


def torchcodec(job: Job) -> Run:
    """Decode with torchcodec in a ``DataLoader`` whose workers stay alive."""
    from torchcodec.decoders import decode_jpeg

    batches: Steps = []
    loader = DataLoader(
        Decoded(job.files, decode_jpeg, partial(each_view, transforms=job.transforms())),
        batch_sampler=batches,
        num_workers=job.workers,
        persistent_workers=True,
    )

    def run(steps: Steps) -> Iterator[Any]:
        batches[:] = steps
        return iter(loader)

    return run


def jpeg(file: str) -> dict[str, Any]:
    """Return a sample of LitData: its writer stores the bytes of a JPEG file unchanged."""
    return {"image": Image.open(file)}


def of_samples(samples: tuple[Any], *, views: Views) -> list[Tensor]:
    """Return the views of LitData's sample, which has been decoded to a tensor."""
    (sample,) = samples
    return views(sample["image"])


def litdata(job: Job) -> Run:
    """LitData: optimized chunks, decoded by its JPEG serializer, shuffled."""
    import litdata as project

    if not os.listdir(job.folder):
        project.optimize(
            fn=jpeg,
            inputs=job.files,
            output_dir=job.folder,
            num_workers=1,
            chunk_bytes="64MB",
            verbose=False,
            start_method="fork",
        )
        # It set the start method of all later processes; a script that only trains has the default.
        multiprocessing.set_start_method(None, force=True)
    transform = partial(of_samples, views=partial(each_view, transforms=job.transforms()))

    def loader(where: str, length: int | None, **options: Any) -> Any:
        data = [project.StreamingDataset(where, shuffle=True, **options)]
        whole = project.ParallelStreamingDataset(data, length=length, transform=transform)
        return project.StreamingDataLoader(
            whole, batch_size=job.batch_size, num_workers=job.workers
        )

    if not job.remote:
        return partial(first, loader(job.folder, LONG))
    # LitData's stores speak https only, and leave no other way to allow a server on this machine.
    vars(project.streaming.downloader)["_OBSTORE_CLIENT_OPTIONS"]["allow_http"] = True
    options = {"endpoint_url": os.environ["S3_ENDPOINT_URL"]}
    return partial(
        cold, lambda cache: loader(job.remote, None, cache_dir=cache, storage_options=options)
    )


def mosaicml(job: Job) -> Run:
    """MosaicML streaming: MDS shards, decoded by PIL, shuffled."""
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    if not os.listdir(job.folder):
        with MDSWriter(out=job.folder, columns={"image": "jpeg"}) as writer:
            for file in job.files:
                writer.write({"image": Image.open(file)})
    views = partial(each_view, transforms=job.transforms())

    class Shards(StreamingDataset):
        def __getitem__(self, at: Any) -> list[Tensor]:
            return views(super().__getitem__(at)["image"].convert("RGB"))

    def loader(**where: Any) -> Any:
        data = Shards(shuffle=True, batch_size=job.batch_size, **where)
        return StreamingDataLoader(data, batch_size=job.batch_size, num_workers=job.workers)

    if not job.remote:
        return partial(first, loader(local=job.folder, epoch_size=LONG))

    def opened(cache: str) -> Any:
        clean_stale_shared_memory()  # the states of shards that the last pass fetched
        return loader(remote=job.remote, local=cache)

    return partial(cold, opened)


def cold(open_in: Callable[[str], Any], steps: Steps) -> Iterator[Any]:
    """Yield a pass over a store's data, opened with an empty cache."""
    with tempfile.TemporaryDirectory(dir=".") as cache:
        yield from first(open_in(os.path.abspath(cache)), steps)


def first(loader: Any, steps: Steps) -> Iterator[Any]:
    """Return as many batches as there are steps, of rows in the project's own order."""
    return islice(iter(loader), len(steps))


# --------------------------------------------------------------------------------------- protocol

LOADERS: dict[str, Callable[[Job], Run]] = {
    "spdl": spdl,
    "spdl-scaled": partial(spdl, scaled=True),
    "torchcodec": torchcodec,
    "litdata": litdata,
    "mosaicml": mosaicml,
}


def main() -> None:
    """Read a job, then make batches until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the packages print is no answer
    torch.set_num_threads(1)
    job = Job(**json.loads(sys.stdin.readline()))
    run = LOADERS[job.name](job)
    print("ready", file=answers)
    for line in sys.stdin:
        for _ in run(json.loads(line)):
            print("batch", file=answers)
        print("end", file=answers)  # and no process of the loader is left


if __name__ == "__main__":
    main()

"""The ``dali`` loader: DALI's dynamic mode decodes the encoded bytes of each step.

Dynamic mode runs operators when they are called, so nothing is prefetched that could be out of step
after an error. A thread pool reads the bytes, ``decoders.image`` decodes each image once, and the
windows are cut from it:

- on the host by our compiled code, from DALI's memory: the same filter in a fifth of the time;
- on a GPU by one ``slice`` and one ``resize`` per view. The slice is first, because ``resize`` with
  a region of interest reads pixels beyond the box.

At most 512 MiB of decoded images (``PART_BYTES``) are held: a larger batch is decoded in parts.

PIL decodes images that DALI would decode differently (EXIF orientation, CMYK, PNG under a JPEG's
name, a JPEG without its end marker). Raw rows of a .beton need no decoder. The windows of both are
cut on the host. If one image is bad, DALI raises for the whole batch: the images are then decoded
16 at a time, those of a failing 16 one at a time, and the bad ones by PIL. DALI keeps a decoder of
32 MiB a thread for each size of batch, so there are two more sizes and never others.

On the host DALI decodes bit for bit like PIL (slow DCT, smooth chroma).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.decoders import Crops
from pipelines.decoders.crop_plan import CropPlan, check_windows, cut_image, make_plan
from pipelines.decoders.dali_gpu import BY_DALI, GpuDecoder, import_dali
from pipelines.decoders.jpeg import ends_as_jpeg, is_plain_jpeg
from pipelines.decoders.pil import fill_by_pil
from pipelines.settings import Interpolation, OnBadImage
from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table
from pipelines.system.device_path import DevicePath
from pipelines.system.scope import in_scope
from pipelines.system.transfer import to_device

log = logging.getLogger(__name__)

RETRY = 16
"""Images decoded at a time after the whole batch has failed."""
PART_BYTES = 512 * 2**20
"""DALI decodes parts of a step's images whose pixels take less than this, or one larger image."""


def in_parts(table: Table, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of consecutive parts of ``rows`` that are decoded at the same time."""
    size = table.channels * table.height[rows].astype(np.int64) * table.width[rows]
    begin, total = 0, 0
    for place, pixels in enumerate(size.tolist()):
        if total + pixels > PART_BYTES and place > begin:
            yield begin, place
            begin, total = place, 0
        total += pixels
    yield begin, len(rows)


def _some(view: Crops, chosen: NDArray[np.bool_]) -> Crops:
    """Return the crops of a view where ``chosen``, (k,), is true."""
    return Crops(view.size, view.take[chosen], view.box[chosen])


def _without_others(
    rows: NDArray[np.int64], inside: NDArray[np.bool_], crops: Sequence[Crops]
) -> tuple[NDArray[np.int64], list[Crops]]:
    """Leave out the rows of a call that are not ``inside``, (n,), and count the crops' anew."""
    place = np.cumsum(inside) - 1
    return rows[inside], [Crops(view.size, place[view.take], view.box) for view in crops]


class DaliDecoder:
    """Crops of a folder's or a .beton's rows; see ``pipelines.decoders.Decoder``.

    With ``cut_on_host=False`` DALI cuts the windows on the host too. ``gpu`` has no effect on the
    host.

    Raises:
        MissingPackage: DALI is not installed.
        ValueError: the rows are not encoded images, or DALI has no such filter.
    """

    def __init__(
        self,
        table: Table,
        *,
        interpolation: Interpolation = "antialias",
        workers: int = 1,
        device: torch.device,
        on_bad: OnBadImage = "stop",
        pin: bool = False,
        cut_on_host: bool = True,
        gpu: GpuDecoder = BY_DALI,
    ) -> None:
        dynamic, kinds = import_dali()
        if isinstance(table.source, Arrays):
            raise ValueError("--loader dali reads encoded images; take `--loader memory`")
        self.cut_on_host = cut_on_host and device.type == "cpu"
        if not self.cut_on_host and interpolation == "area":
            raise ValueError("--loader dali has no --interpolation area on a GPU")
        self.dali: Any = dynamic
        self.kind = kinds.GRAY if table.channels == 1 else kinds.RGB
        self.gpu = gpu.arguments()
        self.table, self.device = table, device
        self.interpolation: Interpolation = interpolation
        self.on_bad: OnBadImage = on_bad
        self.pin = pin
        self.decodes = self.replaced = self.by_pil = 0
        self.device_path: DevicePath | None = None
        self.bad_rows: set[int] = set()
        self.context: Any = dynamic.EvalContext(num_threads=workers, device_id=device.index)
        self.lock = Lock()
        self.copying: list[tuple[Any, torch.cuda.Event]] = []
        self.pool = ThreadPoolExecutor(workers, "dali-read")

    def __call__(self, rows: NDArray[np.int64], crops: Sequence[Crops]) -> list[Tensor]:
        """Decode the distinct ``rows`` once each and cut the crops; without crops, decode only."""
        check_windows(self.table, rows, crops)
        with self.lock, self.context:  # a context serves one thread at a time
            distinct, image = np.unique(rows, return_inverse=True)
            parts = list(in_parts(self.table, distinct))
            if self.cut_on_host:
                plan = make_plan(self.table, rows, crops, pin=self.pin)
                for begin, end in parts:
                    self._cut_on_host(self._images(distinct[begin:end].tolist()), plan, begin, end)
                return plan.views
            made = []
            for begin, end in parts:
                inside = (begin <= image) & (image < end)
                ours = _without_others(rows, inside, [_some(v, inside[v.take]) for v in crops])
                made.append(self._cut_by_dali(self._images(distinct[begin:end].tolist()), *ours))
            if len(parts) == 1:
                return made[0]
            part = np.searchsorted([end for _, end in parts], image, side="right")
            together = zip(*made, strict=True)
            return [self._in_order(x, part[v.take]) for x, v in zip(together, crops, strict=True)]

    def _in_order(self, pieces: Sequence[Tensor], part: NDArray[np.int64]) -> Tensor:
        """Merge the crops of several parts: crop ``j`` is the next one of ``pieces[part[j]]``."""
        places = torch.from_numpy(np.argsort(np.argsort(part, kind="stable")))
        return torch.cat(list(pieces))[to_device(places, self.device)]

    def _images(self, rows: list[int]) -> dict[int, Any]:
        """Return DALI's tensors (h, w, c) of the rows that it decodes like PIL."""
        read = self.pool.map(in_scope(self._read), rows)
        data = {row: found for row, found in zip(rows, read, strict=True) if found is not None}
        self._give_back()  # waits for the last call's copies: after reading, before decoding
        self.decodes += len(rows) - len(data)  # by PIL, or from stored pixels
        images = dict(zip(data, self._decode(list(data.values())), strict=True))
        bad = [row for row, image in images.items() if image is None]
        self.by_pil += len(rows) - len(images) + len(bad)
        if bad:
            name = self.table.source.name(bad[0])
            log.warning("PIL decodes %d of %d images for DALI: %s", len(bad), len(images), name)
        return {row: image for row, image in images.items() if image is not None}

    def _read(self, row: int) -> NDArray[np.uint8] | None:
        """Return the row's bytes, or None if DALI must not decode them."""
        try:
            data = self.table.source.encoded(row)
        except OSError:
            return None
        if data is None or self.table.channels not in (1, 3) or not ends_as_jpeg(data):
            return None
        size = int(self.table.height[row]), int(self.table.width[row])
        return data if is_plain_jpeg(data, *size) else None

    def _decode(self, data: list[Any]) -> list[Any]:
        """Return a tensor for each image, or None if DALI cannot decode it."""
        if not data:
            return []
        self.decodes += len(data)
        found = self._evaluate(data)
        if found is not None:
            return found
        made: list[Any] = []
        for piece in (data[i : i + RETRY] for i in range(0, len(data), RETRY)):
            padded = [*piece, *piece[:1] * (RETRY - len(piece))]
            some = self._evaluate(padded) if len(data) > RETRY else None
            if some is None:
                some = [image for x in piece for image in self._evaluate([x]) or [None]]
            made += some[: len(piece)]
        return made

    def _evaluate(self, data: list[Any]) -> list[Any] | None:
        """Return a tensor for each image, or None if DALI cannot decode one of them."""
        try:
            batch = self.dali.decoders.image(
                self.dali.as_batch(data),
                device="gpu" if self.device.type == "cuda" else "cpu",
                output_type=self.kind,
                adjust_orientation=False,
                jpeg_fancy_upsampling=True,
                **self.gpu,
            )
            return list(batch.evaluate().tensors)
        except RuntimeError:
            return None

    def _cut_on_host(self, images: dict[int, Any], plan: CropPlan, begin: int, end: int) -> None:
        """Cut the windows of images ``begin`` to ``end`` of a plan, on the pool's threads."""

        def cut(i: int) -> bool:
            image = images.get(int(plan.rows[i]))
            if image is None:
                return fill_by_pil(self.table, plan, i, self.interpolation, self.on_bad)
            cut_image(plan, i, np.asarray(image), self.interpolation)
            return False

        replaced = np.array(list(self.pool.map(in_scope(cut), range(begin, end))), np.bool_)
        self.replaced += int(replaced.sum())
        self.bad_rows.update(plan.rows[begin:end][replaced].tolist())

    def _cut_by_dali(
        self, images: dict[int, Any], rows: NDArray[np.int64], crops: Sequence[Crops]
    ) -> list[Tensor]:
        """Cut the windows of DALI's images with DALI, view by view; the others on the host."""
        decoded = np.array([int(row) in images for row in rows], np.bool_)
        rest = [_some(view, ~decoded[view.take]) for view in crops]
        plan = make_plan(self.table, rows, rest, pin=self.pin)
        for i in np.flatnonzero([int(row) not in images for row in plan.rows]):
            if fill_by_pil(self.table, plan, int(i), self.interpolation, self.on_bad):
                self.replaced += 1
                self.bad_rows.add(int(plan.rows[i]))
        made = []
        for view, others in zip(crops, plan.views, strict=True):
            out = others.to(self.device, non_blocking=True)
            known = decoded[view.take]
            if known.any():
                ours = _some(view, known)
                chosen = [images[int(row)] for row in rows[ours.take]]
                resized = self._resize(chosen, ours.box, view.size)
                out = resized if known.all() else self._in_order((resized, out), 1 - known)
            made.append(out)
        return made

    def _resize(self, images: list[Any], box: NDArray[np.int32], size: int) -> Tensor:
        dali = self.dali
        batch = dali.as_batch(images, layout="HWC")
        begin, extent = np.ascontiguousarray(box[:, :2]), np.ascontiguousarray(box[:, 2:])
        windows = dali.slice(
            batch, start=dali.as_batch(begin), shape=dali.as_batch(extent), axes=[0, 1]
        )
        resized = dali.as_tensor(dali.resize(windows, size=[size, size], **self._filter()))
        out: Tensor = resized.torch(copy=True)
        if out.is_cuda:  # DALI's memory must not be reused before the copy has read it
            stream = torch.cuda.current_stream(out.device)
            self.copying.append((resized, stream.record_event()))
        return out

    def _give_back(self) -> None:
        """Return the memory of the last call's crops to DALI, after their copies."""
        for _, copied in self.copying:
            copied.synchronize()
        self.copying.clear()

    def _filter(self) -> dict[str, Any]:
        """Return DALI's arguments of the filter; each agrees with PIL's within a grey level."""
        from nvidia.dali.types import DALIInterpType

        cubic = self.interpolation == "bicubic"
        kind = DALIInterpType.INTERP_CUBIC if cubic else DALIInterpType.INTERP_LINEAR
        return {"interp_type": kind, "antialias": self.interpolation != "bilinear"}

    def close(self) -> None:
        """End the threads and free DALI's memory."""
        self.pool.shutdown()
        self._give_back()
        del self.context

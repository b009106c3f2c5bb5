"""The ``ffcv`` loader: FFCV's JPEG codec and our compiled cropping decode the rows of a .beton.

Stock FFCV decodes an image once for each view. Here each JPEG is decoded once into a scratch
buffer, and all its windows of all sizes are cut while it is in cache; raw rows are cut directly
from the memory map.

Each worker thread calls the compiled function once a batch, without the interpreter's lock, and
takes the next image from a shared counter until none is left. No thread waits for a static split or
competes with the training thread for the lock. (numba's ``prange`` would need tbb: its default
layer aborts when two Python threads call it, as the training thread and the prefetcher do.) Images
are taken largest first, so that no long one comes last. Each output byte depends on its row only,
so any number of workers gives the same bits.

libffcv decodes with the fast DCT: 1 to 2 grey levels from PIL, on average over an image. It returns
-1 both for an error and for a warning. PIL decodes such rows, and JPEGs whose header disagrees with
the table.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any, no_type_check

import numba.experimental.function_type  # noqa: F401 - numba learns what a ``Codec`` is
import numpy as np
from numba import carray, types
from numpy.typing import NDArray
from torch import Tensor

from pipelines.decoders import Crops, MissingPackage
from pipelines.decoders.crop_plan import CropPlan, cut_windows, make_plan
from pipelines.decoders.jpeg import is_plain_jpeg
from pipelines.decoders.pil import fill_by_pil
from pipelines.decoders.resample import FILTER_IDS
from pipelines.settings import Interpolation, OnBadImage
from pipelines.sources.stored import InFiles
from pipelines.sources.table import Table
from pipelines.system.jit import jit, pointer, take_next

MISSING = (
    "--loader ffcv needs the Python package ffcv, which cannot be imported ({error}). It is built "
    "against libopencv-dev, libturbojpeg0-dev, pkg-config and g++: install those and run "
    "`make install`, or take `--loader dali`."
)


class FFCVDecoder:
    """Crops of a .beton's rows; see ``pipelines.decoders.Decoder``."""

    def __init__(
        self,
        table: Table,
        *,
        interpolation: Interpolation = "antialias",
        workers: int = 1,
        on_bad: OnBadImage = "stop",
        pin: bool = False,
    ) -> None:
        if not isinstance(table.source, InFiles):
            raise ValueError("--loader ffcv reads .beton files; tools/write_ffcv.py makes them")
        self.codec = Codec()
        self.table, self.source = table, table.source
        self.interpolation: Interpolation = interpolation
        self.on_bad: OnBadImage = on_bad
        self.workers, self.pin = workers, pin
        self.decodes = self.replaced = 0
        self.bad_rows: set[int] = set()
        # the calling thread is one of the workers
        self.pool = ThreadPoolExecutor(max(workers - 1, 1), "ffcv")

    def __call__(self, rows: NDArray[np.int64], crops: Sequence[Crops]) -> list[Tensor]:
        """Decode the distinct ``rows`` once each and cut the crops; without crops, decode only."""
        plan = make_plan(self.table, rows, crops, pin=self.pin)
        for i in np.flatnonzero(self._decode(plan)):
            if fill_by_pil(self.table, plan, int(i), self.interpolation, self.on_bad):
                self.replaced += 1
                self.bad_rows.add(int(plan.rows[i]))
        return plan.views

    def _decode(self, plan: CropPlan) -> NDArray[np.bool_]:
        """Fill the plan's output; return the mask of images that PIL must decode."""
        table, rows = self.table, plan.rows
        height, width = table.height[rows].astype(np.int64), table.width[rows].astype(np.int64)
        pieces = self.source.pieces(rows)
        failed, decoded = np.zeros(len(rows), np.bool_), np.zeros(1, np.int64)
        arguments: tuple[Any, ...] = (
            self.codec, self.source.addresses(pieces), pieces.size, pieces.encoded, height, width,
            table.channels, np.argsort(-height * width, kind="stable"), np.zeros(1, np.int64),
            plan.first, plan.box, plan.side, plan.at, FILTER_IDS[self.interpolation], plan.out,
            failed, decoded,
        )  # fmt: skip
        others = [self.pool.submit(decode_images, *arguments) for _ in range(self.workers - 1)]
        decode_images(*arguments)
        for other in others:
            other.result()
        self.decodes += int(decoded[0])
        return failed

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()


ARGUMENTS: tuple[Any, ...] = (
    *(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32),
    *(ctypes.c_uint64, *[ctypes.c_uint32] * 6, ctypes.c_bool, ctypes.c_bool),
)
"""C types of ``imdecode``: see ``decode_jpeg``."""


class Codec(types.WrapperAddressProtocol):
    """libffcv's ``imdecode`` as an argument of compiled code, which can then be cached on disk.

    The library is loaded without the package around it, whose import takes seconds (for OpenCV and
    the pipelines of FFCV's own loader) and leaves torch one thread.

    Raises:
        MissingPackage: the package is not installed, or a library that it needs is not.
    """

    def __init__(self) -> None:
        try:
            self.function = ctypes.CDLL(_library()).imdecode
        except (ImportError, OSError) as error:
            raise MissingPackage(MISSING.format(error=error)) from error
        self.function.argtypes = ARGUMENTS  # addresses have 64 bits; ctypes assumes C's int

    def __wrapper_address__(self) -> int:
        return int(ctypes.cast(self.function, ctypes.c_void_p).value or 0)

    def signature(self) -> Any:
        """Return the C signature; see ``decode_jpeg``. The last two arguments are C's bool."""
        u4, u8 = types.uint32, types.uint64
        return types.int32(u8, u8, u4, u4, u8, u4, u4, u4, u4, u4, u4, u4, u4)


def _library() -> str:
    """Return the path of the package's compiled library, without importing the package.

    Raises:
        ImportError: there is none.
    """
    package = find_spec("ffcv")
    folders = package and package.submodule_search_locations
    library = PathFinder.find_spec("_libffcv", folders) if folders else None
    if library is None or library.origin is None:
        raise ModuleNotFoundError("No module named 'ffcv._libffcv'", name="ffcv._libffcv")
    return library.origin


@jit
@no_type_check
def decode_images(
    codec, address, size, encoded, height, width, channels, order, counter,
    first, box, side, at, filter_id, out, failed, decoded,
):  # fmt: skip
    """Decode and cut images until none is left; mark those that PIL must decode in ``failed``.

    ``decoded`` counts the images that were decoded, or cut from their stored pixels.
    """
    scratch = np.empty(max_pixels(encoded, height, width) * 3, np.uint8)
    while True:
        taken = take_next(counter)
        if taken >= len(order):
            return
        i = order[taken]
        take_next(decoded)
        data = carray(pointer(address[i]), (size[i],), np.uint8)
        bytes_of_pixels = channels * height[i] * width[i]
        if not encoded[i]:
            failed[i] = len(data) != bytes_of_pixels
            pixels = data
        else:
            failed[i] = not decode_jpeg(codec, data, height[i], width[i], scratch)
            if channels == 1:
                keep_luma(scratch, height[i] * width[i])
            elif channels != 3:  # a JPEG has no such number of channels
                failed[i] = True
            pixels = scratch[:bytes_of_pixels]
        if not failed[i]:
            image = pixels.reshape((height[i], width[i], channels))
            cut_windows(image, first[i], first[i + 1], box, side, at, filter_id, out)


@jit
@no_type_check
def keep_luma(scratch, pixels):
    """Replace interleaved r, g, b at the start of ``scratch`` by PIL's luma, a byte a pixel."""
    for k in range(pixels):
        red, green, blue = scratch[3 * k], scratch[3 * k + 1], scratch[3 * k + 2]
        total = 19595 * np.int64(red) + 38470 * np.int64(green) + 7471 * np.int64(blue)
        scratch[k] = np.uint8((total + 0x8000) >> 16)


@jit
@no_type_check
def max_pixels(encoded, height, width):
    """Return the number of pixels of the largest encoded image."""
    most = 0
    for i in range(len(encoded)):
        if encoded[i]:
            most = max(most, height[i] * width[i])
    return most


@jit
@no_type_check
def decode_jpeg(codec, data, height, width, scratch):
    """Decode into ``scratch``; return False if the JPEG does not match the table or libffcv fails.

    libffcv passes the size to turbojpeg as a bound and would scale a smaller image up to it. It
    never writes past the scratch buffer, but another size gives a wrong image, so the size is
    compared first.
    """
    if not is_plain_jpeg(data, height, width):
        return False
    source, target = data.ctypes.data, scratch.ctypes.data
    h, w, no, one = np.uint32(height), np.uint32(width), np.uint32(0), np.uint32(1)
    n = np.uint64(len(data))
    return codec(source, n, h, w, target, h, w, no, no, one, one, no, no) == 0

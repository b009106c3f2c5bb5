"""DALI: its proof against PIL, what follows a bad image, and what it waits for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.decoders import dali_gpu
from pipelines.decoders.dali import RETRY, DaliDecoder
from pipelines.decoders.dali_gpu import DALI_ON_GPU, decoding_device
from pipelines.sources.folder import scan
from pipelines.sources.table import Table
from pipelines.system import device_path

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    with device_path.only("auto", [DALI_ON_GPU]):
        yield


@pytest.fixture
def decoder_of(tmp_path: Path) -> Iterator[Callable[[list[bytes]], DaliDecoder]]:
    pytest.importorskip("nvidia.dali")
    made: list[DaliDecoder] = []

    def build(blobs: list[bytes]) -> DaliDecoder:
        folder = tmp_path / "images" / "class"
        folder.mkdir(parents=True)
        for i, blob in enumerate(blobs):
            (folder / f"{i:03}.jpg").write_bytes(blob)
        table: Table = scan(tmp_path / "images", tmp_path, "stop")
        made.append(DaliDecoder(table, device=CPU, on_bad="replace"))
        return made[-1]

    yield build
    for decoder in made:
        decoder.close()


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, shade, shade)).save(file, "JPEG")
    return file.getvalue()


def test_dali_proves_itself_against_pil(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nvidia.dali")
    found = DALI_ON_GPU.compare(CPU)
    assert found.used and found.difference is not None and found.difference <= 3
    monkeypatch.setattr(DaliDecoder, "_evaluate", lambda self, data: None)  # PIL then decodes
    found = DALI_ON_GPU.compare(CPU)
    assert found.reason == "it raised RuntimeError: it could not decode a plain JPEG"


def test_a_gpu_that_decodes_wrongly_leaves_it_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_gpu, "import_dali", lambda: None)
    for usable, place in ((True, CUDA), (False, CPU)):
        monkeypatch.setattr(DALI_ON_GPU, "usable", lambda device, u=usable: u)
        assert decoding_device(CUDA) == place
        assert decoding_device(CPU) == CPU


@pytest.mark.parametrize("number", [RETRY - 3, 2 * RETRY + 3])
def test_a_bad_image_adds_two_sizes_of_batch_and_never_others(
    number: int, decoder_of: Callable[[list[bytes]], DaliDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of([jpeg(6 * i) for i in range(number)])
    sizes: list[int] = []
    evaluate = decoder._evaluate
    bad = decoder.table.source.encoded(number - 2)
    assert bad is not None

    def counted(data: list[Any]) -> list[Any] | None:
        sizes.append(len(data))
        return None if any(np.array_equal(x, bad) for x in data) else evaluate(data)

    monkeypatch.setattr(decoder, "_evaluate", counted)
    images = decoder._images(list(range(number)))
    assert sorted(images) == [i for i in range(number) if i != number - 2]
    assert all(abs(int(np.asarray(image).mean()) - 6 * i) <= 2 for i, image in images.items())
    assert set(sizes) <= {number, RETRY, 1}
    singles = number if number < RETRY else 3
    assert sizes.count(1) == singles and decoder.decodes == number


def test_files_are_read_before_the_last_copies_are_waited_for(
    decoder_of: Callable[[list[bytes]], DaliDecoder],
) -> None:
    decoder, order = decoder_of([jpeg(i) for i in range(3)]), []
    read = decoder._read
    decoder._read = lambda row: order.append("read") or read(row)  # type: ignore[method-assign]
    event = SimpleNamespace(synchronize=lambda: order.append("wait"))
    decoder.copying.append((None, event))  # type: ignore[arg-type]
    decoder(np.arange(3), [])
    assert order == ["read"] * 3 + ["wait"] and not decoder.copying

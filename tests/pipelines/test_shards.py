"""Tar shards: which member is the image, what is named when none is, and what stays out."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.beton.format import open_beton
from pipelines.sources.shards import open_shards
from tools.write_ffcv import main


def encoded(value: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(file, kind)
    return file.getvalue()


def shard(folder: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(folder / "s.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(folder / "s.tar")


def test_endings_in_any_case_and_format(tmp_path: Path) -> None:
    kinds = {"a.JPG": "JPEG", "b.Png": "PNG", "c.bmp": "BMP", "d.tiff": "TIFF", "d.CLS": None}
    path = shard(tmp_path, {n: encoded(9, kind) if kind else b"7" for n, kind in kinds.items()})
    table = open_shards(path, "stop")
    assert table.height.tolist() == [4] * 4
    assert table.label.tolist() == [-1, -1, -1, 7]


def test_keys_that_are_no_ending_are_named(tmp_path: Path) -> None:
    members = {"a.input.png": encoded(1), "a.target.png": encoded(2), "a.json": b"{}"}
    path = shard(tmp_path, members)
    with pytest.raises(
        ValueError, match=r"input\.png \(1\), target\.png \(1\), json \(1\)"
    ) as error:
        open_shards(path, "stop")
    assert "--image-key input.png" in str(error.value)
    for key, value in [("input.png", 1), ("INPUT", 1), ("target", 2)]:
        table = open_shards(path, "stop", key)
        assert table.source.pixels(0)[0, 0, 0] == value
    with pytest.raises(ValueError, match=r"no images under --image-key depth"):
        open_shards(path, "stop", "depth")


def test_two_images_of_a_sample_are_refused(tmp_path: Path) -> None:
    path = shard(tmp_path, {"a.jpg": encoded(1, "JPEG"), "a.png": encoded(2)})
    with pytest.raises(ValueError, match=r"two images, a\.jpg and a\.png: .*--image-key"):
        open_shards(path, "stop")
    assert open_shards(path, "stop", "png").source.pixels(0)[0, 0, 0] == 2


def test_deep_members_have_one_range(tmp_path: Path) -> None:
    members = {}
    for name, value in [("a", 4000), ("b", 2000)]:
        file = io.BytesIO()
        Image.fromarray(np.full((4, 6), value, np.uint16)).save(file, "TIFF")
        members[f"{name}.tiff"] = file.getvalue()
    table = open_shards(shard(tmp_path, members), "stop")
    assert table.source.rules.int_range == (0, 4095)
    assert [int(table.source.pixels(row)[0, 0, 0]) for row in range(2)] == [249, 125]


def test_the_writer_takes_a_key_and_overwrites_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shard(tmp_path, {"a.input.png": encoded(5), "a.cls": b"3"})
    out = tmp_path / "a.beton"
    assert main([f"wds:{path}", str(out)]) == 2
    assert "--image-key input.png" in capsys.readouterr().err
    command = [f"wds:{path}", str(out), "--image-key", "input"]
    assert main(command) == 0
    before = out.read_bytes()
    assert main(command) == 2
    assert f"{out} exists: --overwrite replaces it" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*command, "--overwrite"]) == 0
    table = open_beton(out)
    assert table.label.tolist() == [3]
    assert table.source.pixels(0)[0, 0, 0] == 5
    with pytest.raises(SystemExit):
        main(["photos", str(out), "--image-key", "jpg"])


def test_the_writer_composites_on_the_background(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGBA", (6, 4), (9, 9, 9, 0)).save(tmp_path / "in" / "a.png")
    for color, value in [("white", 255), ("black", 0)]:
        out = tmp_path / f"{color}.beton"
        assert main([f"folder:{tmp_path}/in", str(out), "--background", color]) == 0
        assert (open_beton(out).source.pixels(0) == value).all()
    assert " 0.00 GB" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path / "in"), str(tmp_path / "x.beton"), "--background", "blu"])

"""What many rows cost: the index is one that a reader accepts, and the table has its numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.beton.format import open_beton
from pipelines.sources.beton import Beton
from tools.benchmarks import scale
from tools.benchmarks.hollow import IMAGE_BYTES, write_hollow


@pytest.mark.parametrize("chunk", [1 << 20, 100])
def test_a_hollow_file_is_a_beton_with_a_hole(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.benchmarks.hollow.CHUNK", chunk)
    path = tmp_path / "a.beton"
    write_hollow(path, 301)
    table = open_beton(path)
    assert isinstance(table.source, Beton)
    offset, size = table.source.offset, table.source.size
    np.testing.assert_array_equal(offset[1:], (offset + size)[:-1])  # nothing between them
    assert len(table) == 301 and size.sum() == 301 * IMAGE_BYTES
    assert path.stat().st_size > 301 * IMAGE_BYTES > 100 * path.stat().st_blocks * 512


def test_the_table_has_a_line_for_each_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scale.json"
    flags = ["--rows", "3000", "--processes", "1", "--batch-size", "16", "--steps", "5"]
    assert scale.main([*flags, "--folder", str(tmp_path), "--json", str(file)]) == 0
    (found,) = json.loads(file.read_text())["scale"]
    assert found["rows"] == 3000 and set(found["seconds"]) == set(scale.STAGES)
    assert all(0 < seconds < 60 for pair in found["seconds"].values() for seconds in pair)
    assert found["peak"] > 0 and found["after"] <= found["peak"]
    assert "3,000" in capsys.readouterr().out.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["scale.json"]


@pytest.mark.parametrize(
    ("flags", "why"),
    [(["--rows", "4000"], "--rows must be at least 4096"), (["--processes", "0"], "above 0")],
)
def test_numbers_without_an_epoch_are_refused(
    flags: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        scale.main(flags)
    assert why in capsys.readouterr().err

"""Runs on data at a URL: what a failing store costs, and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from beton_cases import jpeg, picture
from http_store import serving
from runs import SMALL, TINY, lines, run_train

from pipelines.beton.format import Sample
from pipelines.beton.writer import write_beton
from pipelines.remote import disk
from pipelines.remote.errors import RemoteError

pytest.importorskip("obstore", reason="remote files need obstore: pip install 'unmix[remote]'")
pytest.importorskip("ffcv")
ROWS = 96


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    place = tmp_path / "train.beton"
    images = (jpeg(picture(row, 120, 120)) for row in range(ROWS))
    write_beton(place, (Sample(x, 120, 120, True, 0) for x in images), ROWS, 1 << 21)
    return place


def test_a_failing_store_costs_no_finished_step(
    beton: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        disk.require_local(tmp_path)
    except RemoteError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    flags = [*TINY, *SMALL["simclr"], "--method", "simclr", "--loader", "ffcv", "--epochs", "1"]
    flags += ["--output", str(tmp_path), "--read-ahead", "0", "--prefetch", "0"]
    with serving({"b/train.beton": beton.read_bytes()}) as web:
        url = f"{web.url}/b/train.beton"
        remote = [*flags, "--data", url, "--name", "remote", "--cache-size", "0.001"]
        web.fault("403", times=1000, after=12, path="train.beton")
        assert run_train(*remote) == 2
        said = capsys.readouterr()
        assert f"train.py: {url}: access denied (403)" in said.err
        assert f"data      {url}" in said.out and "remote data: " in said.out
        assert "note: --cache-size 0.001 GB is less than the data: --order random" in said.out
        done = lines(tmp_path / "remote")[-1]["step"]
        saved = [path.name for path in (tmp_path / "remote" / "checkpoints").iterdir()]
        assert 0 < done < 6 and any(str(done) in name for name in saved)
        web.heal()
        assert run_train(*remote, "--resume", "auto") == 0
    assert run_train(*flags, "--data", str(beton), "--name", "local") == 0
    ours, theirs = lines(tmp_path / "remote"), lines(tmp_path / "local")
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]
    assert ours[-1]["fetched_mb"] > 0 and "fetched_mb" not in theirs[-1]

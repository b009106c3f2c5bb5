"""bench remote: its server sends what was asked for, and the counts are those of an epoch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from beton_cases import make_samples

from pipelines.beton.writer import write_beton
from pipelines.remote import disk
from pipelines.remote.errors import RemoteError
from tools import bench

pytest.importorskip("obstore", reason="remote files need obstore: pip install 'unmix[remote]'")
pytest.importorskip("ffcv")


def test_a_small_file_is_read_once_at_each_latency(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        disk.require_local(tmp_path)
    except RemoteError as error:
        pytest.skip(str(error))
    write_beton(tmp_path / "a.beton", make_samples(16), 16, 1 << 21)
    out = tmp_path / "out.json"
    words = ["--data", str(tmp_path / "a.beton"), "--latencies", "0", "2", "--orders", "random"]
    words += ["--batch-size", "8", "--size", "8", "--workers", "1", "--repeats", "1"]
    assert bench.main(["remote", *words, "--folder", str(tmp_path), "--json", str(out)]) == 0
    table = capsys.readouterr().out
    found = json.loads(out.read_text())["remote"]
    assert [case["latency_ms"] for case in found] == ["local", 0, 2]
    size = (tmp_path / "a.beton").stat().st_size
    for case in found[1:]:
        (measured,) = case["measured"]
        assert 0 < measured["bytes_fetched"] <= size and measured["requests"] >= 1
    assert "| random |    2 ms |" in table and not list(tmp_path.glob("unmix-remote-*"))


def test_what_is_no_beton_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.main(["remote", "--data", str(tmp_path / "a.beton")])
    said = " ".join(capsys.readouterr().err.split())
    assert "--data" in said and "no .beton on this disk" in said

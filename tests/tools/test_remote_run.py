"""Runs on data at a URL: what a failing store costs, and what is said."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from beton_cases import picture
from http_store import Answer, Request, serving, skip_unless_local
from runs import SMALL, TINY, lines, run_train

from pipelines.beton.format import Sample
from pipelines.beton.writer import write_beton
from pipelines.datasets import open_data
from pipelines.system.scope import Interrupted, Scope
from tools.config.cli import parse
from tools.config.config import Config
from tools.config.remote import remote_options
from tools.distributed.preemption import SILENT_SECONDS
from tools.engine.clim_refresh import ClimRefresh
from tools.engine.fetching import notes
from tools.engine.online_knn import OnlineKnn

pytest.importorskip("obstore", reason="remote files need obstore: pip install 'unmix[remote]'")
pytest.importorskip("ffcv")
ROWS = 96


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    place = tmp_path / "train.beton"
    images = (picture(row, 160, 160).tobytes() for row in range(ROWS))  # 77 kB
    write_beton(place, (Sample(x, 160, 160, False, 0) for x in images), ROWS, 1 << 21)
    return place


def test_a_failing_store_costs_no_finished_step(
    beton: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    skip_unless_local(tmp_path)
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    flags = [*TINY, *SMALL["simclr"], "--method", "simclr", "--loader", "ffcv", "--epochs", "1"]
    flags += ["--output", str(tmp_path), "--read-ahead", "0", "--prefetch", "0"]
    flags += ["--order", "blocks", "--block-rows", "4", "--window-blocks", "1"]
    logged = tmp_path / "remote" / "metrics.jsonl"

    def fails_after_a_step(request: Request) -> Answer | None:
        return Answer(403) if logged.is_file() and lines(logged.parent) else None

    with serving({"b/train.beton": beton.read_bytes()}) as web:
        url = f"{web.url}/b/train.beton"
        remote = [*flags, "--data", url, "--name", "remote"]
        web.routes.append(fails_after_a_step)
        assert run_train(*remote) == 2
        said = capsys.readouterr()
        assert f"train.py: {url}: access denied (403)" in said.err
        assert "Then --resume auto continues after the last finished step" in said.err
        assert f"data      {url}" in said.out and "remote data: " in said.out
        done = lines(tmp_path / "remote")[-1]["step"]
        saved = [path.name for path in (tmp_path / "remote" / "checkpoints").iterdir()]
        assert 0 < done < 6 and any(str(done) in name for name in saved)
        web.routes.clear()
        assert run_train(*remote, "--resume", "auto") == 0
    assert run_train(*flags, "--data", str(beton), "--name", "local") == 0
    ours, theirs = lines(tmp_path / "remote"), lines(tmp_path / "local")
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]
    assert ours[-1]["fetched_mb"] > 0 and "fetched_mb" not in theirs[-1]


def test_a_cache_that_is_too_small_is_noted(
    beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))

    def noted(*flags: str) -> list[str]:
        config = parse(["--data", url, "--loader", "ffcv", *flags])
        return notes(config, open_data(url, Path(), remote=remote_options(config)))

    with serving({"b/train.beton": beton.read_bytes()}) as web:
        url = f"{web.url}/b/train.beton"
        small = ("--cache-size", "0.002", "--groups", "2", "--order", "blocks")
        assert len(noted()) == 1 and noted()[0].startswith("remote data: ")
        assert "--order blocks fetches each about once" in noted("--cache-size", "0.002")[1]
        assert len(noted(*small, "--block-rows", "2", "--window-blocks", "4")) == 1
        assert "lower --window-blocks" in noted(*small, "--block-rows", "4")[1]
        (line,) = noted("--cache-size", "0.002", "--loader", "memory")  # all is fetched once
        assert line.endswith("--loader memory fetches the rest before the first step")
        assert notes(Config(), open_data(str(beton), Path())) == []


@pytest.mark.parametrize("waiting", [OnlineKnn, ClimRefresh])
def test_a_signal_ends_a_wait_for_images_between_two_steps(
    waiting: Any, beton: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The score of the epoch, or the table of the next, is given up; the finished steps are not."""
    name = {OnlineKnn: "score", ClimRefresh: "update"}[waiting]
    folder = tmp_path / "run"
    logged = folder / "metrics.jsonl"

    def waits(*arguments: Any) -> dict[str, float]:
        if not logged.is_file() or all(line["step"] < 3 for line in lines(folder)):
            return {"knn_top1": 1.0, "knn_top5": 1.0, "knn_k": 1}
        os.kill(os.getpid(), signal.SIGTERM)
        assert Scope().patience == SILENT_SECONDS  # a score that makes progress is finished
        raise Interrupted

    monkeypatch.setattr(OnlineKnn, "score", lambda self: {"knn_top1": 1.0})
    monkeypatch.setattr(waiting, name, waits)
    flags = [*TINY, *SMALL["simclr"], "--method", "simclr", "--loader", "ffcv", "--epochs", "2"]
    flags += ["--knn-every", "1", "--val-fraction", "0.25", "--data", str(beton)]
    assert run_train(*flags, "--output", str(tmp_path), "--name", "run") == 75
    done = lines(folder)[-1]
    assert (done["step"], "knn_top1" in done) == (4, waiting is ClimRefresh)
    assert (folder / "RESUME").is_file() and (folder / "checkpoints" / "step-4.pt").is_file()

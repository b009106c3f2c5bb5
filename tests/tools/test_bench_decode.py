"""The possible savings from decoding less: the arithmetic of the table."""

from pathlib import Path

import pytest

pytest.importorskip("ffcv")

from tools.benchmarks import decode


def numbers(text: str) -> dict[str, float]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    return {name.strip(): float(value.strip().rstrip("%")) for name, value in rows}


def test_the_table_adds_up(toy: Path, capsys: pytest.CaptureFixture) -> None:
    assert decode.main(["--data", f"folder:{toy}", "--repeats", "1"]) == 0
    found = numbers(capsys.readouterr().out)
    whole, cutting = found["decode at 1/1"], found["cut two 224 windows"]
    assert whole > 0 and cutting > 0
    assert found["two views against decode only, decoding all"] == pytest.approx(
        whole / (whole + cutting), abs=0.02
    )
    assert 0 < found["scanlines that the windows need"] <= 100


def test_data_without_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert decode.main(["--data", f"folder:{tmp_path / 'none'}"]) == 2
    assert "none" in capsys.readouterr().err

"""The gallery of mixtures draws every mixture, and refuses an odd number of images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import gallery


def test_each_column_shows_its_mixture(toy: Path, tmp_path: Path) -> None:
    data = f"folder:{toy}"
    arguments = gallery.Arguments(output=tmp_path / "g.png", data=data, rows=4, size=48, step=1)
    shown = {mix: gallery.show(mix, arguments) for mix in gallery.SHOWN}
    plain = shown["none"].views[0]
    for mix in gallery.SHOWN[1:]:
        batch = shown[mix]
        image = batch.mixed[0].image if batch.mixed else batch.views[0]
        assert (image != plain).flatten(1).any(1).all(), mix
        assert (batch.index == shown["none"].index).all()


def test_it_writes_a_picture(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "g.jpg"
    words = ["--data", f"folder:{toy}", "--rows", "2", "--size", "48"]
    assert gallery.main(["--output", str(out), *words]) == 0
    pixels = np.asarray(Image.open(out))
    assert pixels.shape[1] > len(gallery.SHOWN) * 144 and pixels.std() > 20


@pytest.mark.parametrize("flags", [("--rows", "3"), ("--data", "folder:/nowhere")])
def test_bad_input_is_an_error(
    flags: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert gallery.main([str(tmp_path / "g.png"), *flags]) == 2
    assert "tools/gallery.py: " in capsys.readouterr().err

"""--recipe takes a file or the name of one in recipes/, and names the closest otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.config.cli import find_recipe, parse

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "recipes" / "photos.yaml"


@pytest.mark.parametrize(
    "name", ["photos", "photos.yaml", "recipes/photos", "recipes/photos.yaml", str(PHOTOS)]
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_recipe_goes_by_its_name_from_any_folder(
    name: str, inside: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT if inside else tmp_path)
    assert find_recipe(name).resolve() == PHOTOS
    config = parse(["--recipe", name])
    assert (config.backbone, config.epochs) == ("resnet10t", 8)
    assert config.recipe is not None and config.recipe.resolve() == PHOTOS  # for the report
    assert parse([f"--recipe={name}", "--epochs", "3"]).epochs == 3


def test_a_file_of_ones_own_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos.yaml", "mine"):
        Path(name).write_text("epochs: 5\n")
        assert parse(["--recipe", name]).epochs == 5
    assert parse(["--recipe", "photos"]).epochs == 5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("phots", "closest: photos"),
        ("recipes/Photos_.yml", "closest: photos"),
        ("photos.json", "closest: photos"),
        ("cifar10-hots", "closest: cifar10-host"),
        ("stl10", "closest: "),
        ("elsewhere/photos.yaml", "--recipe elsewhere/photos.yaml: there is no such file"),
        (".", "is a folder, not a file of settings"),
    ],
)
def test_an_unknown_recipe_names_the_closest(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--recipe") as error:
        parse(["--recipe", name])
    assert reason in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_runs_folder_leads_to_its_settings(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("epochs: 5\n")
    with pytest.raises(ValueError, match=rf"--recipe {tmp_path}/config.yaml"):
        parse(["--recipe", str(tmp_path)])

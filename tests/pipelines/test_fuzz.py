"""Damaged files give an error that names the file, and never a crash.

``beton_cases.py`` covers the pointers and sizes inside a ``.beton``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from beton_cases import make_samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.beton.format import manifest_path, open_beton, read_manifest
from pipelines.beton.writer import write_beton
from pipelines.data_facts import data_facts
from pipelines.sources.beton import Beton
from pipelines.sources.classes import read_classes
from pipelines.sources.image_file import BadImage
from tools.config.cli import parse
from tools.runs import checkpoint

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["method", "mix", "lr", "crops", "swav", "moco", "data", "recipe", "seed"])


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("fuzz") / "a.beton"
    write_beton(path, make_samples(4, 24, 24), 4, 1 << 21)
    return path, path.read_bytes()


@QUICK
@given(flips=st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 7)), min_size=1, max_size=6))
def test_a_beton_with_flipped_bits(beton: tuple[Path, bytes], flips: list[tuple[int, int]]) -> None:
    """Opened or refused; an opened one's rows are pixels of their size or a ``BadImage``."""
    path, data = beton
    damaged, ends = bytearray(data), np.r_[0:2300, (1 << 21) : len(data)]
    for place, bit in flips:
        damaged[ends[place % len(ends)]] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        source = open_beton(path).source
    except ValueError as error:
        assert str(path) in str(error)
        return
    assert isinstance(source, Beton)
    for row in range(len(source.jpg)):
        try:
            assert source.pixels(row).ndim == 3
        except BadImage as error:
            assert str(path) in str(error)


@QUICK
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_manifest_of_anything(beton: tuple[Path, bytes], content: bytes) -> None:
    path, data = beton
    path.write_bytes(data)
    manifest_path(path).write_bytes(content)
    table = open_beton(path)
    assert len(table) == 4 and all(isinstance(name, str) for name in table.classes)


@QUICK
@given(source=JSON, classes=JSON)
def test_a_fitting_manifest_with_odd_values(
    beton: tuple[Path, bytes], source: Any, classes: Any
) -> None:
    path, data = beton
    path.write_bytes(data)
    values = {"bytes": len(data), "source": source, "classes": classes}
    manifest_path(path).write_text(json.dumps(values))
    assert isinstance(read_manifest(path), dict)
    assert all(isinstance(name, str) for name in open_beton(path).classes)
    assert data_facts(str(path)).image_size


@QUICK
@given(
    content=st.binary(max_size=60)
    | st.text(max_size=60).map(str.encode)
    | st.dictionaries(NAMES | st.text(max_size=5), JSON, max_size=4).map(
        lambda values: yaml.safe_dump(values).encode()
    )
)
def test_a_recipe_of_anything(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_bytes(content)
    try:
        parse(["--recipe", str(path)])
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch ran']",
        "method: !!python/name:os.system",
        "a: &a [*a]",
        "- " * 3000,
        "{" * 3000,
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nlr: *c",
        "epochs: 1e999",
        "lr: .nan",
        "method: [moco, byol]",
        "crops: {2: 6}",
        "moco: 3",
        "\ufeff: :",
        "1: 2",
        "? [a, b]\n: c",
    ],
)
def test_hostile_recipes_are_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"r\.yaml|--"):
        parse(["--recipe", "r.yaml"])
    assert not Path("ran").exists()


@QUICK
@given(content=st.binary(max_size=300))
def test_a_checkpoint_of_anything(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "step-1.pt"
    for data in (content, content + checkpoint.TRAILER + content):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"step-1\.pt"):
            checkpoint.load(path)


@QUICK
@given(content=st.binary(max_size=100))
def test_a_file_of_class_names_of_anything(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "classes.txt"
    path.write_bytes(content)
    try:
        assert all(read_classes(path))
    except ValueError as error:
        assert str(path) in str(error)

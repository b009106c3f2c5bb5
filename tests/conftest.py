"""Fixtures: a toy data set, and a cache folder for the tests."""

import os
import tarfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are tiny; read when torch is imported

# What a module of pipelines or models imports while jaxtyping instruments it is compiled anew, and
# not read from __pycache__: the large packages are therefore imported before.
import numba  # noqa: F401
import pytest
import timm  # noqa: F401
import torch._dynamo  # noqa: F401
from toy_cases import toy_images


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 training and 12 validation images."""
    root = tmp_path_factory.mktemp("toy")
    toy_images(root, "train", 40)
    toy_images(root, "val", 12)
    return root


@pytest.fixture(scope="session")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The awkward and broken files, unpacked."""
    folder = os.environ.get("UNMIX_TEST_DATA")
    shared = Path(folder) if folder else Path(__file__).parents[2] / "shared/data"
    if not (shared / "nasty.tar").is_file():
        pytest.skip(f"no nasty.tar below {shared} (UNMIX_TEST_DATA names the folder)")
    target = tmp_path_factory.mktemp("nasty")
    with tarfile.open(shared / "nasty.tar") as tar:
        tar.extractall(target, filter="data")
    return target


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's cache out of the tests."""
    patch = pytest.MonkeyPatch()
    patch.setenv("UNMIX_CACHE", str(tmp_path_factory.mktemp("cache")))


UNCOUNTED = (
    *("test_law8", "test_recipes", "test_flags_fuzz", "test_bench_mixture", "test_fuzz"),
    *("test_distributed", "test_clim_ranks"),
)
"""Tests that repeat, many times, lines that other tests run: counting those would cost minutes."""
LONGEST = (
    *("test_launch", "test_train", "test_distributed", "test_recipes", "test_augment_triton"),
    *("test_methods", "test_loader_examples", "test_bench_loaders", "test_batchnorm_group"),
    *("test_channels_run", "test_consistency", "test_encoder", "test_protocols", "test_doctor"),
    *("test_published", "test_report", "test_bench_mixture", "test_unmix", "test_decoders"),
)
"""Files of 10 seconds and more, the longest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the lines that some tests run out of the coverage; begin with long files.

    A file of a minute that two processes start last leaves one of them without work.
    """
    for item in items:
        if item.path.stem in UNCOUNTED:
            item.add_marker("no_cover")
    if hasattr(config, "workerinput"):  # a process of pytest-xdist
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))

"""The examples of docs/loader.md run unchanged, and the loader has the documented properties."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import Batch, View, build_eval_loader, build_loader, open_data
from pipelines.public import Data
from pipelines.views import ViewPlan

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'^```python title="([^"]+)"\n(.*?)^```$', re.M | re.S)
EXAMPLES = dict(BLOCK.findall((ROOT / "docs" / "loader.md").read_text()))
NEEDS = {"lightly_loss.py": "lightly"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds IMAGES/train (128) and IMAGES/val (10)."""
    root, rng = tmp_path_factory.mktemp("loader"), np.random.default_rng(0)
    for split, count in (("train", 128), ("val", 10)):
        for i in range(count):
            path = root / "IMAGES" / split / f"class{i % 2}" / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    return root


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name: str, images: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    threads = {"OMP_NUM_THREADS": "1", "UNMIX_CACHE": str(images / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[name]], cwd=images, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **threads}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_first_example_is_short() -> None:
    code = next(iter(EXAMPLES.values())).splitlines()
    assert sum(1 for line in code if line and not line.startswith(("from", "import"))) <= 10


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, pipelines; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.fixture
def data(images: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setenv("UNMIX_CACHE", str(images / "cache"))
    return open_data(f"folder:{images / 'IMAGES'}")


def equal(a: Batch, b: Batch) -> bool:
    """Whether two batches hold the same bits."""
    tensors = [(a.index, b.index), (a.label, b.label), *zip(a.views, b.views, strict=True)]
    tensors += [(m.image, n.image) for m, n in zip(a.mixed, b.mixed, strict=True)]
    return a.step == b.step and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.parametrize("mixture", [None, "unmix", "im"])
def test_a_loaded_state_goes_on_with_the_same_bits(data: Data, mixture: str | None) -> None:
    """Mid-epoch, on two ranks, in the next epoch too, and from one process to two."""

    def made(rank: int = 0, world_size: int = 1) -> Any:
        return build_loader(
            data, [View(16), View(16)], 32, mixture=mixture, groups=2, device="cpu",
            rank=rank, world_size=world_size, seed=3,
        )  # fmt: skip

    whole = made()
    assert len(whole) == 4
    states, straight = [], []
    for _ in range(2):
        for batch in whole:
            straight.append(batch)
            states.append(whole.state_dict())
    assert [batch.step for batch in straight] == list(range(8))
    resumed = made()
    resumed.load_state_dict(states[1])
    rest = [*resumed, *resumed]
    assert len(rest) == 6 and all(map(equal, rest, straight[2:]))
    for rank in (0, 1):
        part = made(rank, 2)
        part.load_state_dict(states[5])
        for batch, expected in zip(part, straight[6:], strict=True):
            mine = slice(16 * rank, 16 * rank + 16)
            assert torch.equal(batch.index, expected.index[mine])
            assert all(map(torch.equal, batch.views, (v[mine] for v in expected.views)))
        assert part.state_dict() == states[7]


def test_own_numbers_and_weights(data: Data, tmp_path: Path) -> None:
    """Of all views, of each, and rows by weight; a saved position knows the weights."""
    made = build_loader(data, "byol", 32, size=16, augment={"flip": 0.0}, device="cpu")
    first, second = made.loader.maker.views.views
    assert (first.flip, second.flip, first.blur, second.blur) == (0, 0, 1, 0.1)
    each = [{"solarize": 1.0}, {"rotate90": 1.0}]
    views = build_loader(data, "byol", 32, size=16, augment=each, device="cpu")
    assert views.loader.maker.views.views[0].solarize == 1
    assert views.loader.maker.views.views[1].rotate90 == 1
    weights = np.r_[np.full(64, 3.0), np.ones(64)]
    plain = build_loader(data, [View(16)], 32, device="cpu")
    by_weight = build_loader(data, [View(16)], 32, device="cpu", balance=weights)
    rows = np.concatenate([batch.index.numpy() for batch in by_weight])
    assert len(by_weight) == len(plain) and abs(int((rows < 64).sum()) - 96) <= 8
    file = tmp_path / "weights.txt"
    file.write_text("\n".join(map(str, weights)))
    same = build_loader(data, [View(16)], 32, device="cpu", balance=file)
    same.load_state_dict(by_weight.state_dict())
    with pytest.raises(ValueError, match="state_dict of another loader: this one has balance"):
        plain.load_state_dict(by_weight.state_dict())
    older = {k: v for k, v in plain.state_dict().items() if k != "balance"}
    plain.load_state_dict(older)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"augment": {"flop": 1.0}}, "augment: 'flop' is not one of scale, ratio, flip"),
        ({"augment": {"flip": 2.0}}, "View: flip must be at least 0 and at most 1, not 2"),
        ({"augment": [{"flip": 0.0}]}, "augment: 1 mappings for 2 views"),
        ({"balance": np.ones(3)}, "weights for 128 images"),
        ({"balance": "nowhere.txt"}, "nowhere.txt: cannot be read"),
        ({"balance": "class", "order": "blocks"}, "needs order='random', not 'blocks'"),
    ],
)
def test_wrong_numbers_and_weights_are_refused(
    data: Data, given: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ValueError, match=wrong):
        build_loader(data, "moco-v2", 32, size=16, device="cpu", **given)


def test_a_loop_left_early_keeps_the_place(data: Data) -> None:
    loader = build_loader(data, [View(8)], 32, device="cpu")
    for batch in loader:
        if batch.step == 1:
            break
    assert loader.state_dict()["step"] == 2 and loader.epoch == 0
    assert [batch.step for batch in loader] == [2, 3]
    assert [batch.step for batch in loader] == [4, 5, 6, 7]


def test_another_loader_s_state_is_refused(data: Data) -> None:
    state = build_loader(data, [View(8)], 32, device="cpu").state_dict()
    for more in ({"seed": 1}, {"batch_size": 16}):
        other = build_loader(data, [View(8)], **{"batch_size": 32, "device": "cpu", **more})
        with pytest.raises(ValueError, match=next(iter(more))):
            other.load_state_dict(state)


def test_multi_crop_and_blocks(data: Data) -> None:
    loader = build_loader(data, "swav", 32, size=32, device="cpu", order="blocks", groups=2)
    batch = next(iter(loader))
    assert [view.shape[-1] for view in batch.views] == [32, 32, *[14] * 6]
    assert torch.equal(batch.label, torch.from_numpy(data.labels[batch.index.numpy()]))


def test_evaluation_covers_each_row_once(images: Path, data: Data) -> None:
    val = open_data(data.spec, split="val")
    seen: list[int] = []
    for rank in range(3):
        with build_eval_loader(val, 2, rank=rank, world_size=3, device="cpu") as loader:
            batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            assert batch.views[0].shape[1:] == (3, 224, 224)
            assert torch.equal(batch.label, torch.from_numpy(val.labels[batch.index.numpy()]))
            seen += batch.index.tolist()
    assert seen == list(range(10))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 500}, "batch_size=500"),
        ({"world_size": 3}, "world_size=3"),
        ({"rank": 1}, "rank=1"),
        ({"views": "mocov2"}, "views='mocov2'"),
        ({"views": []}, "views="),
        ({"mixture": "mixup"}, "mixture"),
        ({"mixture": "clim"}, "mixture='clim'"),
        ({"mixture": "unmix", "groups": 3}, "groups 3"),
    ],
)
def test_refusals_name_the_argument(data: Data, arguments: dict[str, Any], named: str) -> None:
    given = {"views": ViewPlan((View(8),)), "batch_size": 32, "device": "cpu", **arguments}
    with pytest.raises(ValueError, match=re.escape(named)):
        build_loader(data, **given)

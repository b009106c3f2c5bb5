"""The plain loop of the baseline makes the same step as ours, and both are measured in turn."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets.cifar
from PIL import Image
from runs import reset_accelerate, run_main
from torch.nn.modules.batchnorm import _BatchNorm

from pipelines.views import View
from tools.benchmarks import baseline, harness
from tools.benchmarks.baseline import Arguments, summary
from tools.benchmarks.harness import take_turns
from tools.benchmarks.plain_loop import PlainLoop, SplitBatchNorm
from tools.benchmarks.torchvision_views import torchvision_view
from tools.distributed.launch import start
from tools.engine import build
from tools.engine.data import open_data_of
from tools.profiling.rates import create_learner

SMALL: dict[str, Any] = {"backbone": "test_resnet", "batch_size": 8, "groups": 2, "workers": 1}


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty images under CIFAR-10's published names."""
    exists = lambda path, md5=None: Path(path).exists()  # noqa: E731
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", exists)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = rng.integers(0, 256, (8, 3072), np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [i] * 8}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return tmp_path


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_plain_step_is_ours(cifar: Path, precision: Any) -> None:
    reset_accelerate()
    accelerator = start(precision)
    config = Arguments(data_dir=cifar, bn="sync", precision=precision, **SMALL).config()
    data = open_data_of(config, accelerator)
    decoders = build.Decoders(config, accelerator)
    learner = create_learner(config, data, decoders, accelerator)
    plain = PlainLoop(config, data, accelerator)
    ours: Any = learner.method
    plain.queue = ours.queue.rows.T.clone()
    for step, batch in enumerate(learner.loader.batches(0, 2)):
        before = plain.queue.clone()
        loss = plain.train_on(batch.views)
        learner.train_on(batch)
        (tolerance, rough) = (1e-4, 1e-3) if precision == "no" else (2e-2, 2e-2)
        assert loss.item() == pytest.approx(learner.metrics.read()["loss"], rel=tolerance), step
        pairs = zip(plain.query.parameters(), online(ours), strict=True)
        assert all(torch.allclose(a, b, atol=rough) for a, b in pairs)
        assert torch.allclose(plain.queue.T, ours.queue.rows, atol=rough)
        assert (before != plain.queue).any(0).nonzero().flatten().tolist() == [
            *range(8 * step, 8 * step + 8)
        ]
    decoders.close()
    plain.close()


def online(method: Any) -> list[torch.nn.Parameter]:
    return [*method.backbone.parameters(), *method.head.parameters()]


def test_split_batch_norm_has_its_keys_shuffled_and_put_back(cifar: Path) -> None:
    reset_accelerate()
    accelerator = start("no")
    config = Arguments(data_dir=cifar, bn="group", **SMALL).config()
    plain = PlainLoop(config, open_data_of(config, accelerator), accelerator)
    plain.key = torch.nn.Flatten()  # what each row becomes depends on that row alone
    images = torch.randn(8, 3, 4, 4)
    expected = torch.nn.functional.normalize(images.flatten(1))
    torch.testing.assert_close(plain._keys(images), expected)
    seen = []
    plain.key = torch.nn.Sequential(torch.nn.Flatten())
    plain.key.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for _ in range(3):
        plain._keys(images)
    assert any(not torch.equal(x, images) for x in seen)
    plain.close()


def test_the_ruler_is_made_of_plain_torch_parts(cifar: Path) -> None:
    reset_accelerate()
    accelerator = start("no")
    for bn, expected in (("sync", torch.nn.BatchNorm2d), ("group", SplitBatchNorm)):
        config = Arguments(data_dir=cifar, bn=bn, **SMALL).config()
        plain = PlainLoop(config, open_data_of(config, accelerator), accelerator)
        for encoder in (plain.query, plain.key):
            layers = [type(m) for m in encoder.modules() if isinstance(m, _BatchNorm)]
            assert layers and set(layers) == {expected}
        plain.close()


def test_split_batch_norm_is_that_of_each_part() -> None:
    x = torch.randn(8, 3, 4, 4)
    split, parts = SplitBatchNorm(3, 1e-5, 0.1, 2), [torch.nn.BatchNorm2d(3) for _ in range(2)]
    expected = torch.empty_like(x)
    for i, norm in enumerate(parts):
        expected[i::2] = norm(x[i::2])
    torch.testing.assert_close(split(x), expected)
    mean = torch.stack([norm.running_mean for norm in parts]).mean(0)
    torch.testing.assert_close(split.running_mean, mean)
    torch.testing.assert_close(split.eval()(x), torch.nn.functional.batch_norm(
        x, split.running_mean, split.running_var))  # fmt: skip


def test_a_view_that_changes_nothing_is_the_normalised_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    still = View(16, (1.0, 1.0), (1.0, 1.0), flip=0.0, jitter_prob=0.0, gray=0.0)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    made = torchvision_view(still, "antialias", mean, std)(Image.fromarray(pixels))
    expected = (torch.from_numpy(pixels) / 255 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(made, expected.permute(2, 0, 1))


def test_turns_forwards_and_backwards() -> None:
    calls: list[tuple[str, int]] = []

    def rate(name: str, value: float) -> Callable[[int], float]:
        def measured(steps: int) -> float:
            calls.append((name, steps))
            return value

        return measured

    found = {("loader", "unmix"): rate("a", 80.0), ("loader", "plain"): rate("b", 8.0)}
    timing = Arguments(batch_size=8, seconds=0.5, repeats=3, workers=1)
    rates = take_turns(found, 8, timing, least=2)
    assert calls == [("a", 2), ("b", 2),
                     ("a", 5), ("b", 2), ("b", 2), ("a", 5), ("a", 5), ("b", 2)]  # fmt: skip
    assert rates == {("loader", "unmix"): [80.0] * 3, ("loader", "plain"): [8.0] * 3}


def test_ratios_are_quotients_of_medians() -> None:
    rates = {
        ("loader", "unmix"): [90.0, 100.0, 500.0],
        ("loader", "plain"): [10.0, 20.0, 30.0],
        ("end_to_end", "unmix"): [8.0, 16.0, 16.0],
        ("end_to_end", "plain"): [8.0, 4.0, 1.0],
    }
    found = summary(rates, 8)
    assert found["ratios"] == {"loader": 5.0, "steps_per_second": 4.0}
    assert found["steps_per_second"] == {"unmix": 2.0, "plain": 0.5}
    assert found["spread"]["loader"]["unmix"] == [90.0, 500.0]


def test_command(cifar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = cifar / "out.json"
    flags = ("--data-dir", str(cifar), "--backbone", "test_resnet", "--batch-size", "8",
             "--workers", "1", "--groups", "2", "--seconds", "0.01", "--repeats", "1")  # fmt: skip
    assert run_main(baseline.main, *flags, "--json", str(out)) == 0
    found = json.loads(out.read_text())
    assert found["setting"]["images"] == 40
    rates, ratios = found["images_per_second"], found["ratios"]
    assert ratios["loader"] == rates["loader"]["unmix"] / rates["loader"]["plain"]
    steps = found["steps_per_second"]
    assert ratios["steps_per_second"] == pytest.approx(steps["unmix"] / steps["plain"])
    assert steps["plain"] * 8 == pytest.approx(rates["end_to_end"]["plain"])
    assert {"cpu", "cores", "gpu", "versions"} <= set(found["machine"])
    assert found["command"].startswith("python tools/bench.py baseline --data-dir")
    shown = capsys.readouterr().out
    assert "loader alone, plain" in shown
    device = "cuda" if found["machine"]["gpu"] else "cpu"
    assert f"1 workers; {harness.timed_by_clock(device)}" in shown
    assert ("Without a GPU" in shown) == (found["machine"]["gpu"] is None)


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"batch_size": 600}, "--batch-size 600"),
        ({"repeats": 0}, "--repeats"),
        ({"seconds": 0.0}, "--seconds"),
        ({"workers": 9999}, "--workers"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        Arguments(**wrong)

"""A run proves the paths that it will use, and names them; flags choose."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.augment.build import FUSED_AUGMENTATION
from pipelines.system import device_path
from pipelines.system.device_path import DevicePath
from pipelines.system.transfer import SIDE_STREAM
from tools.config.config import Config
from tools.distributed.launch import choose_paths
from tools.engine.device_paths import paths_of, prove
from tools.evaluation.base import ImageFlags
from tools.evaluation.opening import with_data

CPU = torch.device("cpu")
OWN = DevicePath("norm", lambda d: [torch.ones(1)], lambda d: [torch.ones(1)], 0.0)


class Layer(nn.Module):
    device_path = OWN


def test_a_run_proves_the_paths_of_its_loader_and_layers_once_each() -> None:
    method = nn.Sequential(Layer(), nn.Linear(1, 1), Layer())
    decoder = SimpleNamespace(device_path=None)
    assert paths_of(method, decoder) == [SIDE_STREAM, FUSED_AUGMENTATION, OWN]  # type: ignore[arg-type]
    assert prove(method, decoder, CPU) == []  # type: ignore[arg-type]


def test_the_flag_chooses_and_fused_needs_a_gpu() -> None:
    with device_path.only("auto"):
        choose_paths("plain", CPU)
        assert device_path.chosen() == "plain"
        with pytest.raises(ValueError, match="--device-paths fused needs a CUDA device"):
            choose_paths("fused", CPU)


@pytest.mark.parametrize(
    ("asked", "trained", "paths"),
    [
        (None, "auto", "auto"),
        (None, "plain", "plain"),
        (None, "fused", "auto"),  # the run may be scored on the host
        ("fused", "plain", "fused"),
        ("auto", "plain", "auto"),
    ],
)
def test_a_score_takes_the_paths_of_its_run(asked: Any, trained: Any, paths: str) -> None:
    run: Any = Config(device_paths=trained)
    assert with_data(run, ImageFlags(device_paths=asked)).device_paths == paths

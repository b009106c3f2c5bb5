"""The work of one process of a group for test_protocols.py, and the values compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import run_main

import eval as evaluation
from tools.scoring import accuracy

COMMANDS = {
    "knn": ("knn", "--k", "3", "7"),
    "linear": ("linear", "--epochs", "2", "--lr", "0.1", "1"),
    "augmented": (
        *("linear", "--epochs", "2", "--lr", "0.1", "1"),
        *("--images", "augmented", "--batch-size", "16"),
    ),
    "finetune": ("finetune", "--epochs", "1", "--batch-size", "20", "--weights", "random"),
}


def numbers_of(run: Path) -> dict[str, Any]:
    """Run every command in this process; return the class scores that each ends with."""
    seen: dict[str, Any] = {}

    def watched(name: str) -> Any:
        count = accuracy.topk_accuracy

        def topk_accuracy(rows: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
            seen.setdefault(name, []).append(rows.detach().clone())
            return count(rows, labels)

        return topk_accuracy

    for name, words in COMMANDS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(accuracy, "topk_accuracy", watched(name))
            assert run_main(evaluation.main, words[0], "--run", str(run), *words[1:]) == 0
    return seen

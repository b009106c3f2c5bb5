"""TF32 on CUDA: float32 products with 10 bits of mantissa, by whichever API PyTorch has.

PyTorch 2.9 added ``fp32_precision``. Afterwards reading the older ``allow_tf32`` raises if anything
has used the new attribute, so nothing else in this project touches either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

MATMUL = "cuda.matmul"
CONVOLUTION = ("cudnn.conv", "cudnn.rnn")


def allow_tf32() -> None:
    """Let matrix products and convolutions of this process use TF32."""
    _write({name: True for name in _switches()})


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 products without TF32 inside the context; for the whole process."""
    before = {name: _read(name) for name in _switches()}
    _write(dict.fromkeys(before, False))
    try:
        yield
    finally:
        _write(before)


def tf32_allowed() -> dict[str, bool]:
    """Return whether each kind of product uses TF32, by the name of PyTorch's backend."""
    return {name: _read(name) for name in _switches()}


def _has_precision() -> bool:
    return hasattr(torch.backends, "fp32_precision")


def _switches() -> tuple[str, ...]:
    return (MATMUL, *(CONVOLUTION if _has_precision() else ("cudnn",)))


def _backend(name: str) -> Any:
    found: Any = torch.backends
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _read(name: str) -> bool:
    if _has_precision():
        return bool(_backend(name).fp32_precision == "tf32")
    return bool(_backend(name).allow_tf32)


def _write(switches: dict[str, bool]) -> None:
    for name, on in switches.items():
        if _has_precision():
            _backend(name).fp32_precision = "tf32" if on else "ieee"
        else:
            _backend(name).allow_tf32 = on

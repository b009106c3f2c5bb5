"""Processes in which Triton's kernels are interpreted on the host, and their compiler for GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, **environment: str) -> str:
    """Output of a Python process in the checkout; it must succeed."""
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


def passes_interpreted(name: str) -> None:
    """Run a file of tests in a process of its own, in which Triton is imported as an interpreter.

    Without jaxtyping's checks, whose packages take longer to import than some of the tests.
    """
    pytest.importorskip("triton")
    tests = str(ROOT / "tests" / "support" / name)
    try:
        output = run(
            *("-m", "pytest", tests, "-p", "no:cacheprovider"),
            *("-o", "addopts=--import-mode=importlib -q"),
            TRITON_INTERPRET="1",
        )
    except AssertionError as error:
        if "only 0-dimensional arrays can be converted" in str(error):
            pytest.skip("the interpreter of this Triton does not know this NumPy (3.6 with 2.4)")
        raise
    assert "[100%]" in output


def compiled(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, object],
    capability: int,
    options: Mapping[str, object],
    multiples: Sequence[str] = (),
) -> Any:
    """A kernel's machine code for a GPU; it must keep all its numbers in registers.

    Pointers are aligned, as all of PyTorch's are. ``multiples``: arguments known to be divisible
    by 16.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {k: types[k] for k in kernel.arg_names}
    names = enumerate(kernel.arg_names)
    aligned = [i for i, k in names if signature[k][0] == "*" or k in multiples]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    known = {k: v for k, v in constants.items() if k in kernel.arg_names}
    source = ASTSource(kernel, signature, known, attributes)
    target = GPUTarget("cuda", capability, 32)
    made = triton.compile(source, target=target, options=dict(options))
    assert f".target sm_{capability}" in made.asm["ptx"]
    assert ".local" not in made.asm["ptx"] and made.asm["cubin"]
    assert "STACK:0 " in resources(made.asm["cubin"])
    return made


def resources(cubin: bytes) -> str:
    """What cuobjdump says of a kernel's registers, stack and memory; ptxas spills to the stack."""
    from triton.knobs import nvidia

    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [nvidia.cuobjdump.path, "-res-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

"""A missing package is named with its fix, and importing any module never needs it (law 9)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import doctor
from tools.diagnostics import checks
from tools.diagnostics.checks import Check, check_decoder

ROOT = Path(__file__).resolve().parents[1].parent

BLOCK = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == block or name.startswith(block + ".") for block in BLOCKED):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run_blocked(
    blocked: tuple[str, ...], code: str, *args: str
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process in which these packages cannot be imported, without a GPU."""
    return subprocess.run(
        [sys.executable, "-c", f"BLOCKED = {blocked!r}\n{BLOCK}\n{code}", *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        timeout=300,
    )


DOCTOR = "import runpy; runpy.run_path('tools/doctor.py', run_name='__main__')"


def module_names() -> list[str]:
    files = [ROOT / "train.py", ROOT / "eval.py"]
    for package in ("pipelines", "models", "tools"):
        files += sorted((ROOT / package).rglob("*.py"))
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return [name.removesuffix(".__init__") for name in names]


def test_every_module_imports_without_cuda_dali_ffcv_triton() -> None:
    code = """
import importlib, torch
for name in sys.argv[1:]:
    importlib.import_module(name)
assert not torch.cuda.is_initialized()
print("imported", len(sys.argv[1:]))
"""
    theirs = {"pipelines.augment.triton_kernels", "models.modules.batchnorm_kernels"}  # Triton's
    names = [name for name in module_names() if name not in theirs]
    run = run_blocked(("ffcv", "nvidia.dali", "triton"), code, *names)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == str(len(names))


def test_doctor_is_content_here() -> None:
    for package in ("ffcv", "nvidia.dali"):
        pytest.importorskip(package)
    run = run_blocked((), DOCTOR, "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    said = json.loads(run.stdout)
    assert said["ok"]
    names = {check["name"] for check in said["checks"]}
    assert {"Python", "torch", "DALI CPU", "FFCV", "libturbojpeg", "cores", "RAM"} <= names


def test_doctor_names_each_fix() -> None:
    blocked = ("torch", "torchvision", "timm", "accelerate", "numba", "ffcv", "nvidia.dali", "rich")
    run = run_blocked(blocked, DOCTOR)
    assert run.returncode == 1, run.stderr
    lines = run.stdout.splitlines()
    for name in ("torch", "timm", "rich", "FFCV", "DALI CPU", "JPEG decoder"):
        (at,) = (i for i, line in enumerate(lines) if line.split()[1:2] == [name.split()[0]]
                 and f" {name} " in line)  # fmt: skip
        assert lines[at].startswith(("MISSING", "absent")), lines[at]
        assert "make " in lines[at + 1].split("fix: ")[1]
    assert "will not work: torch" in lines[-1]


def test_doctor_works_on_without_one_decoder() -> None:
    """FFCV is optional: DALI alone is enough, and the verdict says what is absent."""
    ok = Check("DALI CPU", True, "")
    absent = Check("FFCV", False, "", needed=False, fix="make ffcv")
    checks = [ok, absent, check_decoder([ok, absent])]
    assert doctor.works(checks)
    assert "without FFCV" in doctor.verdict(checks)
    assert not doctor.works([check_decoder([absent])])


def test_doctor_explains_its_flags() -> None:
    assert doctor.main(["--help"]) == 0
    assert doctor.main(["--jsno"]) == 2


def test_the_installer_asks_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """tools/install.sh installs these; the doctor's fix for FFCV names them too."""
    monkeypatch.setattr(checks.shutil, "which", lambda name: None if name == "g++" else name)
    monkeypatch.setattr(checks, "output", lambda *command: "1.0")
    monkeypatch.setattr(checks, "loads", lambda library: library != "libGL.so.1")
    assert set(checks.missing_system_packages()) - {"python3.11-dev"} == {"g++", "libgl1"}
    assert "g++ " in checks.ffcv_fix() and checks.ffcv_fix().endswith("&& make ffcv")

"""The opponents of the loader benchmark: their process, files and pins, with stand-in packages."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.datasets import open_data
from pipelines.decoders import MissingPackage
from pipelines.sampler import Sampler
from pipelines.views import View
from tools.benchmarks import harness, loaders, opponents
from tools.benchmarks.opponents import (
    PACKAGES,
    Bucket,
    Opponent,
    last_words,
    versions,
    write_files,
)
from tools.benchmarks.opponents_worker import LOADERS, box, window
from tools.benchmarks.setting import Setting
from tools.benchmarks.torchvision_views import torchvision_view

ROOT = Path(__file__).parents[2]
STUB = """
import json, os, sys
job = json.loads(sys.stdin.readline())
assert all(os.path.isfile(file) for file in job["files"]) and os.listdir(job["folder"]) == []
print("ready", flush=True)
for line in sys.stdin:
    for rows in json.loads(line):
        if len(rows) != job["batch_size"]:
            raise SystemExit("the rows are no batch")
        print("batch", flush=True)
    print("end", flush=True)
"""
SHORT = """
import sys
print("ready", flush=True)
sys.stdin.readline(), sys.stdin.readline()
print("batch\\nend", flush=True)
sys.stdin.read()
"""
DEAF = "raise SystemExit('no such library')"
MORTAL = """
import sys
print("ready", flush=True)
sys.stdin.readline(), sys.stdin.readline()
print("batch", flush=True)
raise SystemExit("out of shared memory")
"""
DECODERS = """
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
def decode_jpeg(file):
    with Image.open(file) as image:
        return pil_to_tensor(image.convert("RGB"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like that of --opponents, with a torchcodec that decodes with PIL."""
    for name in ("torchcodec", "spdl_core", "simplejpeg", "numpy"):
        facts = tmp_path / f"{name}-9.8.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.8\n")
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "decoders.py").write_text(DECODERS)
    return tmp_path


def setting(data: Path, folder: Path | None) -> Setting:
    table = open_data(f"folder:{data}", Path("data"))
    order = Sampler(len(table), 8)
    views = (View(16), View(16))
    return Setting(table, None, np.arange(len(table)), order, views, False, "antialias", 1, folder)


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    (folder / "stub_of_an_opponent.py").write_text(code)
    monkeypatch.setattr(opponents, "WORKER", "stub_of_an_opponent")


def test_it_asks_for_the_rows_of_each_step_and_leaves_nothing(toy, folder, monkeypatch):
    stand_in(folder, monkeypatch, STUB)
    one = Opponent(setting(toy, folder), "torchcodec")
    own = Path(one.folder.name)
    assert len(list(own.glob("*.jpg"))) == 40
    assert list(one.run(3)) == [0, 1, 2]
    assert list(one.run(5)) == [0, 1, 2, 3, 4]
    one.close()
    assert one.process.returncode == 0
    assert not own.exists()


def test_one_that_does_not_start_is_left_out_with_its_last_line(toy, folder, monkeypatch):
    stand_in(folder, monkeypatch, DEAF)
    with pytest.raises(ValueError, match="torchcodec: its process ended: no such library"):
        Opponent(setting(toy, folder), "torchcodec")


def test_one_that_ends_early_says_why(toy, folder, monkeypatch):
    stand_in(folder, monkeypatch, MORTAL)
    one = Opponent(setting(toy, folder), "torchcodec")
    batches = one.run(2)
    assert next(batches) == 0
    with pytest.raises(OSError, match="out of shared memory"):
        next(batches)
    one.close()


def test_one_with_too_few_batches_is_not_waited_for(toy, folder, monkeypatch):
    stand_in(folder, monkeypatch, SHORT)
    one = Opponent(setting(toy, folder), "torchcodec")
    with pytest.raises(OSError, match="answers 'end' instead of 'batch'"):
        list(one.run(2))
    one.close()


def test_the_exception_counts_not_what_is_printed_after_it():
    text = "Traceback:\n  File\nlib.errors.GenericError: refused\n{\n}"
    assert last_words(text) == "lib.errors.GenericError: refused"
    assert last_words("") == "without a word"


def test_a_bucket_is_named_to_the_process_with_its_server(toy, folder, monkeypatch):
    lines = """
import json, os, sys
job = json.loads(sys.stdin.readline())
print("ready", flush=True)
print(job["remote"], job["folder"], os.environ["S3_ENDPOINT_URL"], file=sys.stderr)
"""
    stand_in(folder, monkeypatch, lines)
    bucket = Bucket(folder, "s3://ms020", "http://127.0.0.1:9")
    one = Opponent(setting(toy, folder), "torchcodec", bucket)
    own = folder / "torchcodec.own"
    with pytest.raises(OSError, match=f"s3://ms020/torchcodec.own {own} http://127.0.0.1:9"):
        next(one.run(1))
    one.close()
    assert own.is_dir()  # for the next process


def test_without_the_packages_the_text_says_how_to_get_them(toy, folder):
    for where, name in ((None, "spdl"), (folder, "mosaicml")):
        with pytest.raises(MissingPackage, match=r"--opponents FOLDER.*requirements-bench\.txt"):
            Opponent(setting(toy, where), name)
    with pytest.raises(ValueError, match="--opponents"):
        loaders.Arguments(data="photos", opponents=ROOT / "docs")


def test_versions_are_those_in_the_folder(folder):
    assert versions(folder) == dict.fromkeys(
        ("numpy", "simplejpeg", "spdl-core", "torchcodec"), "9.8"
    )


def test_files_are_the_rows_bytes_and_all_are_jpegs(toy, tmp_path):
    table = open_data(f"folder:{toy}", Path("data"))
    files = write_files(table, tmp_path)
    assert [Path(file).read_bytes() for file in files[:3]] == [
        table.source.encoded(row).tobytes() for row in range(3)
    ]
    (tmp_path / "png").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "png" / "one.png")
    with pytest.raises(ValueError, match=r"JPEG images only, unlike .*one\.png"):
        write_files(open_data(f"folder:{tmp_path / 'png'}", Path("data")), tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # numba's
def test_a_measurement_with_an_opponent(toy, folder, tmp_path, capsys):
    """The worker itself, with a DataLoader."""
    pytest.importorskip("ffcv")
    out = tmp_path / "out.json"
    words = f"""--data folder:{toy} --cases two --loaders ffcv torchcodec litdata --workers 1
        --repeats 1 --seconds 0.02 --batch-size 8 --size 16 --opponents {folder} --json {out}"""
    assert loaders.main(words.split()) == 0
    found = json.loads(out.read_text())
    assert set(found["images_per_second"]["two"]) == {"ffcv", "torchcodec"}
    assert found["opponents_versions"]["torchcodec"] == "9.8"
    assert found["cpu_ms_an_image"]["two"].keys() == {"ffcv", "torchcodec"}
    assert all(value > 0 for value in found["cpu_ms_an_image"]["two"].values())
    assert "requirements-bench.txt" in found["left_out"]["two"]["litdata"]
    assert "CPU ms an image" in capsys.readouterr().out


def test_the_best_opponent_counts():
    found = loaders.ratios(
        {"moco-v2": {"ffcv": 12.0, "spdl": 2.0, "mosaicml": 3.0, "lightly": 9.0}}
    )
    assert found["moco_v2_vs_best_opponent"] == 4.0
    assert found["two_views_vs_spdl"] is None


@pytest.mark.parametrize("interpolation", ["antialias", "bicubic", "bilinear", "area"])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_window_is_the_same_place_at_any_scale(interpolation, factor):
    """The mean of a window of a ramp is the ramp at its middle."""
    pytest.importorskip("cv2")
    y, x = np.mgrid[:128, :192]
    ramp = np.stack([y, x, y + x // 2], -1).astype(np.uint8)
    small = ramp[factor // 2 :: factor, factor // 2 :: factor].copy()
    crop = window(small, (16, 40, 64, 96), factor, 24, interpolation)
    assert crop.shape == (3, 24, 24)
    assert crop.dtype == torch.uint8
    np.testing.assert_allclose(crop.float().mean((1, 2))[:2], (47.5, 87.5), atol=1.5)


def test_windows_have_torchvisions_distribution():
    torch.manual_seed(0)
    view = View(16, scale=(0.2, 0.5))
    drawn = np.array([box(100, 200, view) for _ in range(300)])
    top, left, height, width = drawn.T
    area = height * width / 20_000
    assert area.min() > 0.19
    assert area.max() < 0.51
    assert abs(area.mean() - 0.35) < 0.02
    assert (top + height).max() <= 100
    assert (left + width).max() <= 200


def test_tensors_and_pil_images_give_like_views():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    image = small.resize((160, 120), Image.Resampling.BICUBIC)
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    plain = View(32, jitter_prob=0.0, gray=0.0)
    for view, mean in ((plain, ()), (plain, (0.5,) * 3)):
        transform = torchvision_view(view, "antialias", mean, mean)
        made = []
        for one in (image, planes):
            torch.manual_seed(1)
            made.append(transform(one).float())
        scale = 1 if not mean else 255 / 2
        assert (made[0] - made[1]).abs().mean() * scale < 1.5


def test_cpu_seconds_count_processes_that_have_ended():
    before = harness.cpu_seconds()
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-S", "-c", burn], check=True)
    assert harness.cpu_seconds() - before >= 0.19  # counted in hundredths


def test_cpu_is_that_of_the_steady_part(monkeypatch):
    spent = [0.0]

    class Source:
        warm, tail = 2, 1

        def run(self, steps):
            for step in range(steps):
                spent[0] += 0.5 if 2 <= step < 6 else 100.0
                yield step

    monkeypatch.setattr(harness, "cpu_seconds", lambda: spent[0])
    cpu: list[float] = []
    harness.images_per_second(Source(), 4, 8, cpu=cpu)
    assert cpu == [4 * 0.5 * 1e3 / 32]


def test_every_opponent_is_pinned():
    with (ROOT / "pyproject.toml").open("rb") as file:
        group = tomllib.load(file)["dependency-groups"]["bench"]
    text = (ROOT / "requirements-bench.txt").read_text()
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.M))
    for name in {name for names in PACKAGES.values() for name in names}:
        assert f"{name}=={pins[name]}" in group
    assert tuple(map(int, pins["numpy"].split(".")[:2])) < (2, 2)  # MosaicML's
    assert not pins.keys() & {"torch", "torchvision"}  # this environment's
    assert text.count("--hash=sha256:") > len(pins)
    assert LOADERS.keys() == PACKAGES.keys()

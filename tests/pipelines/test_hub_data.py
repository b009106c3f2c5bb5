"""``hf:ORG/NAME``: which files are a split, their download, and what is refused."""

from __future__ import annotations

import io
import json
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_cases import COMMIT, Data, Hub, point_to, serve
from PIL import Image

from pipelines.beton.format import open_beton
from pipelines.sources.hub import hub_parquet
from pipelines.sources.hub_files import HubData, choose, list_splits, place_of
from tools.write_ffcv import main

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

usage = namedtuple("usage", "total used free")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, as the client's endpoint, and an empty cache."""
    with serve() as server:
        point_to(monkeypatch, server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        yield server
        huggingface_hub.close_session()


def parquet(*values: int) -> bytes:
    images = []
    for value in values:
        file = io.BytesIO()
        Image.new("RGB", (6, 4), (value, 0, 0)).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    file = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": [value % 2 for value in values]}), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        ("hf:o/n", ("o/n", None, None, None)),
        ("hf:o/n:test", ("o/n", None, None, "test")),
        ("hf:o/n/c", ("o/n", None, "c", None)),
        ("hf:o/n.x@v1.0/c:s", ("o/n.x", "v1.0", "c", "s")),
        ("hf:o/n@refs/convert/parquet/c:s", ("o/n", "refs/convert/parquet", "c", "s")),
    ],
)
def test_the_parts_of_a_spec(spec: str, data: tuple[str | None, ...]) -> None:
    found = HubData.parse(spec)
    assert (found.name, found.revision, found.config, found.split) == data


@pytest.mark.parametrize("spec", ["hf:mnist", "hf:", "hf:o/n/c/d", "hf:o/n:", "hf:o n/m"])
def test_other_forms_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="write hf:ORG/NAME"):
        HubData.parse(spec)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("data/train-00000-of-00294.parquet", ("default", "train")),
        ("data/train-00000-of-00294-ab12cd34.parquet", ("default", "train")),
        ("data/unlabeled-00000-of-00001.parquet", ("default", "unlabeled")),
        ("mnist/test-00000-of-00001.parquet", ("mnist", "test")),
        ("plain_text/validation/0000.parquet", ("plain_text", "validation")),
        ("default/partial-train/0003.parquet", ("default", "partial-train")),
        ("train/part-3.parquet", ("default", "train")),
        ("v2/train/part-3.parquet", ("v2", "train")),
        ("my_test_file.parquet", ("default", "test")),
        ("images.parquet", ("default", "train")),
        ("contested.parquet", ("default", "train")),
    ],
)
def test_the_place_of_a_file_by_its_name(name: str, place: tuple[str, str]) -> None:
    assert place_of(name) == place


def test_a_card_names_the_files_of_its_splits() -> None:
    names = ["a/x.parquet", "a/deep/y.parquet", "b.parquet", "held/z.parquet", "README.md"]
    files: Any = [
        {"split": "train", "path": ["a/*", "b.parquet"]},
        {"split": "s", "path": "held/*"},
    ]
    card = {"configs": [{"config_name": "c", "data_files": files}, {"config_name": "e"}]}
    assert list_splits(names, card) == {
        "c": {"train": ["a/x.parquet", "b.parquet"], "s": ["held/z.parquet"]}
    }
    for form, found in [("**/*.parquet", 4), (["a/**"], 2), ("a/?.parquet", 1)]:
        one = {"configs": [{"config_name": "c", "data_files": form}]}
        assert len(list_splits(names, one)["c"]["train"]) == found
    under = {"configs": [{"config_name": "c", "data_dir": "a", "data_files": "*.parquet"}]}
    assert list_splits(names, under) == {"c": {"train": ["a/x.parquet"]}}


TWO: dict[str, dict[str, list[str]]] = {"a": {"train": []}, "b": {"train": [], "dev": []}}


@pytest.mark.parametrize(
    ("files", "spec", "split", "chosen"),
    [
        ({"default": {"train": [], "test": []}}, "hf:o/n", "train", ("default", "train")),
        ({"default": {"train": [], "test": []}}, "hf:o/n", "val", ("default", "test")),
        ({"default": {"test": [], "valid": []}}, "hf:o/n", "val", ("default", "valid")),
        (TWO | {"default": {"train": []}}, "hf:o/n", "train", ("default", "train")),
        ({"only": {"train": []}}, "hf:o/n", "train", ("only", "train")),
        (TWO, "hf:o/n/b:dev", "train", ("b", "dev")),
        (TWO, "hf:o/n", "train", "has the configurations a, b: hf:o/n/a"),
        (TWO, "hf:o/n/c", "train", "no configuration c; it has the configurations a, b"),
        (TWO, "hf:o/n/a:x", "train", "hf:o/n/a has no split x; it has train: hf:o/n/a:train"),
        (TWO, "hf:o/n/a", "val", "has no split val; it has train"),
        ({"default": {"partial-train": []}}, "hf:o/n", "train", "partial-train .*only a part"),
    ],
)
def test_configuration_and_split(files: Any, spec: str, split: str, chosen: Any) -> None:
    if isinstance(chosen, tuple):
        assert choose(files, HubData.parse(spec), split) == chosen
    else:
        with pytest.raises(ValueError, match=chosen):
            choose(files, HubData.parse(spec), split)


def test_a_data_set_is_downloaded_once_and_converted(hub: Hub, tmp_path: Path) -> None:
    """Its card names the classes, which files without metadata do not."""
    names = {"class_label": {"names": {"0": "even", "1": "odd"}}}
    features = [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": names}]
    files = {
        "data/train-00000-of-00002.parquet": parquet(10, 11),
        "data/train-00001-of-00002.parquet": parquet(13),
        "data/test-00000-of-00001.parquet": parquet(20),
    }
    hub.data["me/set"] = Data(files, {"dataset_info": {"features": features}})
    out = tmp_path / "a.beton"
    assert main(["hf:me/set", str(out)]) == 0
    table = open_beton(out)
    assert [int(table.source.pixels(row)[0, 0, 0]) for row in range(3)] == [10, 11, 13]
    assert (table.classes, table.label.tolist()) == (("even", "odd"), [0, 1, 1])
    source = json.loads((tmp_path / "a.beton.json").read_text())["source"]
    assert source == f"hf:me/set@{COMMIT}/default:train"
    assert not any("test" in asked for asked in hub.asked)
    hub.asked.clear()
    assert main(["hf:me/set", str(out), "--overwrite"]) == 0
    assert [asked for asked in hub.asked if "resolve" in asked] == []
    assert main(["hf:me/set", str(out), "--overwrite", "--split", "val"]) == 0
    assert open_beton(out).source.pixels(0)[0, 0, 0] == 20


def test_an_interrupted_download_is_continued(hub: Hub, tmp_path: Path) -> None:
    body = parquet(*range(40))
    hub.data["me/set"] = Data({"a.parquet": body})
    hub.cut_once = 1000
    with pytest.MonkeyPatch.context() as patch:  # the client waits a second before it tries again
        patch.setattr("time.sleep", lambda _: None)
        patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 250)
        found = hub_parquet("hf:me/set")
    assert found.paths[0].read_bytes() == body
    first_bytes = [int(asked.split()[-1]) for asked in hub.asked if asked.startswith("GET /data")]
    assert first_bytes == [0, 1000]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("hf:me/none", "hub has no such data set, or it is private: `hf auth login`"),
        ("hf:me/set@v9", "has no revision v9"),
        ("hf:me/gated", "accepted its terms on its page"),
        (
            "hf:me/tar",
            r"no \.parquet among its 1 file: .*hf:me/tar@refs/convert/parquet; its \.tar",
        ),
        ("hf:me/large", r"has 5 bytes, and 4 bytes are free for .*: HF_HOME names a folder"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    hub: Hub, spec: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.data["me/set"] = Data({"a.parquet": b""})
    hub.data["me/gated"] = Data({"a.parquet": b"1"}, gated=True)
    hub.data["me/tar"] = Data({"a.tar": b""})
    hub.data["me/large"] = Data({"a.parquet": b"12345"})
    if spec.endswith("large"):
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage(9, 5, 4))
    with pytest.raises(ValueError, match=why) as error:
        hub_parquet(spec)
    assert "\n" not in str(error.value)


def test_without_a_network_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point_to(monkeypatch, "http://127.0.0.1:9")  # nothing listens there
    assert main(["hf:me/set", str(tmp_path / "a.beton")]) == 2
    error = capsys.readouterr().err
    assert "hf:me/set: the hub was not reached" in error
    assert "hf download --repo-type dataset me/set --include '*.parquet'" in error
    assert "'parquet:FOLDER/data/train-*.parquet'" in error
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert main(["hf:me/set", str(tmp_path / "a.beton")]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    huggingface_hub.close_session()


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'unmix\[parquet\]'"):
        hub_parquet("hf:me/set")

"""tools/export.py --push, against a stand-in for the hub that the client talks HTTP to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_cases import Hub, point_to, serve
from huggingface_hub import ModelCard, constants
from runs import run_main, two_steps

from models.modules.backbone import create_backbone
from tools import export
from tools.exporting import hub as hub_client
from tools.exporting import huggingface
from tools.exporting.source import Source, load
from tools.exporting.verify import run_example

pytest.importorskip("safetensors")
FILES = {"README.md", "config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_steps("byol", toy, tmp_path_factory.mktemp("runs"), "--stem", "standard")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, as the client's endpoint; the account is "me"."""
    with serve() as server:
        point_to(monkeypatch, server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_writes")
        yield server
        huggingface_hub.close_session()


def push(run: Path, out: Path, *flags: str, name: str = "me/model") -> int:
    return run_main(export.main, str(run), str(out), "--to", "huggingface", "--push", name, *flags)


def test_what_was_sent_loads_by_its_name_and_gives_the_runs_features(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert push(run, out, "--private", "--license", "apache-2.0") == 0
    assert f"sent: {hub.address}/me/model" in capsys.readouterr().out
    assert hub.models["me/model"] == {path.name: path.read_bytes() for path in out.iterdir()}
    assert hub.models["me/model"].keys() == FILES
    assert [asked.get("visibility") or asked.get("private") for asked in hub.created] in (
        ["private"],
        [True],
    )
    assert hub.commits == ["test_resnet, online encoder of step 2, by unmix"]
    card = ModelCard(hub.models["me/model"]["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-feature-extraction"
    code = card.text.split("```python\n")[1].split("```")[0]
    assert '"hf-hub:me/model"' in code
    compare(load(run, None, None), code)
    card.validate()  # asks the hub
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert card.data.tags == ["self-supervised-learning", "byol", "huggingface"]


def compare(source: Source, code: str) -> None:
    """The card's code gives the run's features."""
    images = source.images(2)
    with torch.no_grad():
        theirs = run_example(code)(images)
        torch.testing.assert_close(theirs, source.encoder(images), rtol=1e-5, atol=1e-6)


def test_a_small_stem_loads_from_the_hub_too(run: Path, hub: Hub, tmp_path: Path) -> None:
    encoder = create_backbone("test_resnet", 16, "small").eval()
    source = dataclasses.replace(load(run, None, None), encoder=encoder)
    huggingface.write(source, tmp_path / "f")
    hub.models["me/model"] = {path.name: path.read_bytes() for path in (tmp_path / "f").iterdir()}
    code = huggingface.hub_example(source, "me/model")
    assert 'hf_hub_download("me/model", "model.safetensors")' in code
    compare(source, code)


def test_a_dry_run_lists_what_would_go_and_sends_and_keeps_nothing(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(run, tmp_path / "deep" / "model", "--dry-run") == 0
    out = capsys.readouterr().out
    listed = {line.split()[-1]: line.split()[0] for line in out.splitlines() if "bytes" in line}
    assert listed.keys() == FILES
    assert all(int(size.replace(",", "")) > 0 for size in listed.values())
    assert "would go to me/model" in out
    assert hub.asked == [] and not (tmp_path / "deep").exists()


def test_a_taken_name_is_refused_before_any_work_and_overwrite_adds_a_commit(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.models["me/model"] = {"theirs.txt": b"kept"}
    assert push(run, tmp_path / "model") == 2
    error = one_line(capsys)
    assert "--push me/model: there is such a model" in error and "--overwrite" in error
    assert not (tmp_path / "model").exists() and hub.commits == []
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("stays here")
    assert push(run, tmp_path / "model", "--overwrite") == 0
    assert hub.models["me/model"].keys() == {*FILES, "theirs.txt"}
    assert "license" not in ModelCard(hub.models["me/model"]["README.md"].decode()).data.to_dict()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What the command wrote to stderr, without progress bars: one line with its name."""
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("tools/export.py: ")]
    assert "Traceback" not in error
    return line


@pytest.mark.parametrize(
    ("token", "name", "reason"),
    [
        ("hf_reads", "me/model", "the token may only read: `hf auth login`"),
        ("hf_wrong", "me/model", "the hub does not accept the token"),
        ("", "me/model", "there is no token of the hub: `hf auth login`"),
    ],
)
def test_a_token_that_will_not_do_is_refused_before_any_work(
    run: Path,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str,
    name: str,
    reason: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert push(run, tmp_path / "model", name=name) == 2
    assert reason in one_line(capsys)
    assert not (tmp_path / "model").exists()


def test_a_closed_account_a_full_hub_and_a_wrong_licence_leave_the_folder_and_the_way_to_send_it(
    run: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert push(run, out, name="others/model") == 2
    assert "the token may not write there (You don't have the rights" in one_line(capsys)
    assert {path.name for path in out.iterdir()} == FILES
    hub.full = True
    assert push(run, out, "--private", "--overwrite") == 2
    error = one_line(capsys)
    assert "the hub answered 413: No space left" in error
    assert f"`hf upload me/model {out} . --private`" in error
    hub.full = False
    assert push(run, out, "--overwrite", "--license", "nonsense") == 2
    assert '"license" must be one of apache-2.0, mit' in one_line(capsys)
    assert hub.commits == []


def test_without_a_network_it_says_so(
    run: Path,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    point_to(monkeypatch, "http://127.0.0.1:1")
    assert push(run, tmp_path / "model") == 2
    error = one_line(capsys)
    assert "--push me/model: the hub was not reached" in error and "HF_ENDPOINT" in error


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--to", "timm", "b.pth", "--push", "me/model"), "--push needs --to huggingface"),
        (("--to", "huggingface", "b", "--push", "model"), "as ACCOUNT/NAME"),
        (("--to", "huggingface", "b", "--push", "me/a model"), "--push me/a model: "),
        (("--to", "huggingface", "b", "--dry-run"), "--dry-run needs --push"),
        (("--to", "timm", "b.pth", "--private"), "--private needs --push"),
    ],
)
def test_flags_that_contradict_are_refused_without_reading_the_run(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], reason: str
) -> None:
    assert run_main(export.main, "nowhere", *flags) == 2
    assert reason in one_line(capsys)


def test_every_file_of_the_folder_is_listed(run: Path, tmp_path: Path) -> None:
    huggingface.write(load(run, None, None), tmp_path / "f")
    written = {path.name for path in (tmp_path / "f").iterdir()}
    assert written | {"README.md"} == {*huggingface.FILES} == FILES
    assert len(hub_client.listing(tmp_path / "f", sorted(written))) == 2

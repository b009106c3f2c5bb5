"""The report of a run: its text follows from the log, it loads nothing from elsewhere, it opens."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from runs import SMALL, TINY, run_main, run_train
from toy_cases import toy_images

from pipelines.data_facts import data_facts
from pipelines.datasets import open_data
from tools import report
from tools.config.cli import parse, to_dict
from tools.config.resolve import resolve
from tools.plots.curves import training_panels
from tools.plots.embedding import draw_maps
from tools.plots.panels import Panel, Series, draw_panels
from tools.reporting import difference, findings, pictures, write
from tools.runs.locate import find_runs
from tools.runs.record import read_config

EVIL = "<img src=x onerror=alert(1)>\"&'"
RECIPE = "batch_size: 16\ngroups: 4\nlr: 0.07\nsimclr:\n  dim: 16\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored run that ended with its page; its name and a class's try to be markup."""
    root = tmp_path_factory.mktemp("report")
    data = root / "images"
    toy_images(data, "train", 40)
    toy_images(data, "val", 12)
    for split in ("train", "val"):
        (data / split / "class0").rename(data / split / EVIL)
    (root / "own.yaml").write_text(RECIPE)
    flags = (*TINY, *SMALL["simclr"], "--method", "simclr", "--mix", "region")
    flags += ("--data", f"folder:{data}", "--epochs", "2", "--knn-every", "1", "--report")
    where = ("--output", str(root), "--name", f"run {EVIL}", "--recipe", str(root / "own.yaml"))
    assert run_train(*flags, *where, pictures=True) == 0
    return root / f"run {EVIL}"


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def read(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def test_a_score_enters_the_page_and_the_panels_stay(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    before = read(copy)
    line = {"protocol": "knn", "step": 4, "knn_top1": 0.12345, "knn_top5": 1.0}
    (copy / "eval.jsonl").write_text(json.dumps(line) + "\n")
    (copy / "checkpoints" / "best").write_text("step-4.pt")
    write.after_score(copy)
    after = read(copy)
    assert "12.35%" in after and "12.35%" not in before
    assert "Best checkpoint by kNN: step 4" in after
    panels = [write.PANELS.search(text) for text in (before, after)]
    assert panels[0] and panels[1] and panels[0][0] == panels[1][0]
    assert 'id="neighbours"' in panels[0][0] and 'id="map"' in panels[0][0]
    (copy / "report.html").write_text("<p>a page of an older version")
    write.after_score(copy)
    assert "tools/report.py" in capsys.readouterr().out
    assert read(copy) == "<p>a page of an older version"


# --- the page ----------------------------------------------------------------------------------


def test_a_run_ends_with_a_page_that_says_it_all(run: Path) -> None:
    text = read(run)
    page = Tags(text)
    assert len(text) < 3_000_000
    sections = {attrs["id"] for tag, attrs in page.tags if tag == "section"}
    assert sections >= {
        "scores", "curves", "collapse", "neighbours", "map", "views", "speed", "settings",
    }  # fmt: skip
    before, *_, after = (
        line["knn_top1"]
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if line.get("knn_top1") is not None
    )
    assert f"{before:.1%} → {after:.1%}" in page.words
    assert "4 steps of 16 images" in page.words
    assert "k 40, T 0.1" in page.words  # all images: --knn-k 200 has no more to count


def test_nothing_from_outside_becomes_markup_or_is_loaded(run: Path) -> None:
    text = read(run)
    page = Tags(text)
    assert EVIL in page.words  # it is there, as text
    kinds = {tag for tag, _ in page.tags}
    assert kinds.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], tag
        for name in ("src", "href", "srcset", "poster", "data", "xlink:href"):
            assert (attrs.get(name) or "data:").startswith(("data:", "#")), (tag, attrs)
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_pictures_say_what_they_show(run: Path) -> None:
    shown = [a for tag, a in Tags(read(run)).tags if tag == "img"]
    assert len(shown) > 10 and all(len(a["alt"] or "") > 5 for a in shown)
    drawn = [a for a in shown if (a["src"] or "").startswith("data:image/svg+xml")]
    assert len(drawn) >= 6 and all("chart" in (a["class"] or "") for a in drawn)
    assert len([a for a in drawn if " from " in (a["alt"] or "")]) >= 6  # the curves' ends


PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images];
  document.documentElement.dataset.probe = JSON.stringify({
    images: images.length, loaded: images.filter(i => i.complete && i.naturalWidth > 0).length,
    requests: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
    over: document.documentElement.scrollWidth - innerWidth, width: innerWidth});
});</script>"""  # noqa: E501


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("no chromium")
    return found


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_opens_it_without_an_error(run: Path, width: int, tmp_path: Path) -> None:
    text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', PROBE, read(run))
    assert count == 1
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            browser(), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900", "--dump-dom", (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    (probe,) = (a["data-probe"] for tag, a in Tags(done.stdout).tags if tag == "html")
    seen = json.loads(probe or "")
    assert seen["images"] == seen["loaded"] > 10
    assert seen["requests"] == 0 and seen["over"] <= 0, seen
    assert "CONSOLE" not in done.stderr


def test_the_command_writes_it_anew(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read(run)
    line = {"protocol": "linear", "step": 4, "linear_top1": 0.4321, "lr": 30, "commit": "abc"}
    (run / "eval.jsonl").write_text(json.dumps(line) + "\n")
    profile = {"bottleneck": "bound by the training step", "step_images_per_second": 12.0}
    (run / "profile.json").write_text(json.dumps(profile))
    assert run_main(report.main, "--run", str(run), "--map", "pca") == 0
    assert "43.21%" in read(run) and "43.21%" not in before
    assert "bound by the training step" in read(run)
    assert maps(read(run)) == maps(before) != []  # the same network
    assert run_main(report.main, str(run), "--no-look") == 0
    assert "Nearest neighbours" in read(run) and not maps(read(run))


def maps(text: str) -> list[str | None]:
    return [a["src"] for _, a in Tags(text).tags if "map" in (a.get("class") or "").split()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--run", "nowhere"), "nowhere: there is no such run"),
        (("nowhere",), "nowhere: there is no such run"),
        ((".",), ". is not the folder of a run"),
        ((), "name a run"),
    ],
)
def test_without_a_run(
    words: tuple[str, ...], message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run_main(report.main, *words) == 2
    assert message in capsys.readouterr().err


def test_runs_are_named_by_path_or_below_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    assert find_runs([Path("a"), Path("b"), Path("runs/a")]) == [
        Path("runs/a"), Path("b"), Path("runs/a"),
    ]  # fmt: skip


def test_a_page_that_cannot_be_written_fails_no_run(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flags = (*TINY, *SMALL["simclr"], "--method", "simclr", "--data", f"folder:{toy}")
    flags += ("--output", str(tmp_path), "--limit-steps", "1")
    monkeypatch.setattr(write, "write", lambda *_: 1 / 0)
    assert run_train(*flags, "--name", "a", "--report", pictures=True) == 0
    assert "report.html could not be written: ZeroDivisionError" in caplog.text
    caplog.clear()
    assert run_train(*flags, "--name", "b") == 0  # TINY says --no-report
    assert not caplog.text and not (tmp_path / "b" / "report.html").exists()


# --- settings ----------------------------------------------------------------------------------


def resolved(words: list[str]) -> dict:
    config = parse(words)
    facts = data_facts(config.data)
    return to_dict(resolve(config, facts, config.precision or "no"))


def test_its_command_gives_the_same_settings_and_names_no_more(run: Path) -> None:
    config, recipe = read_config(run), difference.recipe_of(run)
    assert recipe == run.parent / "own.yaml"
    found = difference.differences(config, recipe, data_facts(config.data))
    command = shlex.split(difference.command(config, recipe, found).replace("\\\n", " "))
    assert command[:3] == ["accelerate", "launch", "train.py"]
    wanted = to_dict(config) | {"output": "runs"}
    assert resolved(command[3:]) == wanted
    for left_out in found[:: max(len(found) // 3, 1)]:
        fewer = [one for one in found if one is not left_out]
        shorter = difference.command(config, recipe, fewer).replace("\\\n", " ")
        assert resolved(shlex.split(shorter)[3:]) != wanted, left_out.name
    names = {one.name for one in found}
    assert "batch_size" not in names and "simclr.dim" not in names  # the recipe's
    assert {"lr", "epochs", "simclr.hidden"} <= names


@pytest.mark.parametrize("value", [True, False, (1, 2), (), None, 0.5])
def test_a_difference_is_a_flag_that_is_read_back(value: object) -> None:
    name = {bool: "compile", tuple: "multi_scale", float: "mix_beta"}.get(type(value), "workers")
    words = difference.SettingDifference(name, value, None).words
    assert getattr(parse(words), name) == value


# --- findings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("std", "rank", "level"),
    [
        ([0.8, 0.8], [30, 29], "good"),
        ([0.8, 0.09], [30, 29], "bad"),
        ([0.8, 0.8], [30, 1.9], "bad"),
        ([0.8, 0.8], [30, 7.4], "watch"),
        ([0.8, 0.8], [30, 7.6], "good"),
        ([], [], "unknown"),
    ],
)
def test_collapse_is_judged_by_the_stated_thresholds(
    std: list[float], rank: list[float], level: str
) -> None:
    pairs = zip(std, rank, strict=True)
    lines = [{"step": 1, "features_std": s, "features_rank": r} for s, r in pairs]
    assert findings.collapse(lines).level == level


@pytest.mark.parametrize(
    ("wait", "title"), [(0.0, "Bound by the step"), (0.3, "Bound by the data")]
)
def test_throughput_names_its_bottleneck(wait: float, title: str) -> None:
    lines = [
        {"step": s, "images_per_second": v, "data_wait": wait} for s, v in enumerate([9, 5, 7])
    ]
    lines.append({"step": 3, "images_per_second": None, "data_wait": None})
    found = findings.throughput(lines)
    assert found.title == title and "Median 7 images/s" in found.text


def test_a_run_no_better_than_untrained_is_called_so() -> None:
    lines = [{"step": 0, "knn_top1": 0.5}, {"step": 9, "knn_top1": 0.5}]
    assert findings.knn_gain(lines).level == "bad"
    assert findings.knn_gain([*lines, {"step": 10, "knn_top1": 0.51}]).level == "good"
    assert findings.knn_gain(lines[:1]).level == findings.knn_gain([]).level == "unknown"


def test_events_come_from_the_record(tmp_path: Path) -> None:
    lines = [{"step": 1, "world_size": 1, "loss": 1.0}, {"step": 2, "world_size": 2, "loss": None}]
    lines[1]["images_replaced"] = 3
    said = " ".join(findings.events(lines, tmp_path, (7,)))
    assert "on 2 processes, 1 before" in said and "3 times" in said
    assert "not finite: 7." in said and "not finite at step 2" in said
    assert findings.events(lines[:1], tmp_path) == []


# --- charts ------------------------------------------------------------------------------------


def panel(*series: Series, **options: float) -> Panel:
    return Panel("t", "step", "y", series, **options)


def test_a_line_goes_through_its_points_and_leaves_out_what_is_not_finite() -> None:
    y = np.array([0.0, np.nan, 10.0])
    (axes,) = draw_panels([panel(Series("a", np.arange(3.0), y), low=0, high=10)]).axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[0, 0], [2, 10]]
    assert axes.get_ylim() == (0, 10)
    (axes,) = draw_panels([panel(Series("a", [0, 1], [-5, 20]), low=0, high=10)]).axes
    assert axes.get_ylim()[0] < -5 and axes.get_ylim()[1] > 20  # limits hide no value
    nothing = Series("a", np.arange(3.0), np.full(3, np.nan))
    assert draw_panels([panel(nothing)]).axes[0].lines[0].get_xydata().size == 0
    assert training_panels([{"step": 0, "loss": None}, {"step": 1, "loss": np.nan}]) == {}


def test_many_points_become_few_with_the_same_mean() -> None:
    y = np.random.default_rng(0).random(40 * pictures.MOST_POINTS)
    x, thinned = Series("a", np.arange(float(len(y))), y).thinned(pictures.MOST_POINTS).points
    assert len(x) == len(thinned) == pictures.MOST_POINTS
    assert thinned.mean() == pytest.approx(y.mean())


def test_a_chart_says_in_words_where_its_curves_begin_and_end() -> None:
    found = pictures.of_panel(panel(Series("a", [0, 1], [5.0, 2.5]), Series("b", [0], [1.0])))
    assert found.alt == "t against step: a from 5 to 2.5; b from 1 to 1"


@pytest.mark.parametrize("num_classes", [0, 2, 9, 35])
def test_a_map_holds_every_point_once(toy: Path, num_classes: int) -> None:
    """More classes than looks are gray, and so are images without a class."""
    table = open_data(f"folder:{toy}", Path("data"), "train")
    labels = np.arange(len(table)) % (num_classes + 1) - 1
    table = dataclasses.replace(table, label=labels)
    points = np.random.default_rng(0).standard_normal((len(table), 2)).astype(np.float32)
    (axes,) = draw_maps(table, [points], [""], "").axes
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])
    np.testing.assert_allclose(sorted(drawn.tolist()), sorted(points.tolist()), rtol=1e-6)


def test_settings_by_dotted_names() -> None:
    config = difference.with_values(parse([]), {"lr": 3.0, "swav.dim": 7})
    assert config.lr == 3.0 and config.swav.dim == 7
    assert dataclasses.replace(config, lr=None).swav.hidden == parse([]).swav.hidden

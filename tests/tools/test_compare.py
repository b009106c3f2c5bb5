"""tools/compare.py: groups, differences and errors computed by hand, refusals, and output."""

import json
from pathlib import Path

import numpy as np
import pytest
from compare_cases import write_run
from PIL import Image
from runs import run_main
from scipy import stats

from pipelines.settings import PatchMixConfig
from tools import collect, compare
from tools.config.config import Config
from tools.runs.comparison import (
    Difference,
    Group,
    base_of,
    beyond,
    difference,
    group,
    name_of,
)
from tools.runs.scores import alike, read_scores

NONE = [0.801, 0.792, 0.810]
UNMIX = [0.813, 0.809, 0.818]


def pair(root: Path, none: list[float], mixed: list[float], *, first: int = 0) -> list[Path]:
    """Runs of SimCLR without and with region mixtures; the latter's seeds begin at ``first``."""
    runs = [write_run(root, f"none-{i}", v, seed=i) for i, v in enumerate(none)]
    for i, v in enumerate(mixed, first):
        runs.append(write_run(root, f"region-{i}", v, seed=i, mix="region"))
    return runs


def test_the_numbers_of_no_mixture_separate_a_run_from_its_base(tmp_path: Path) -> None:
    words = {"mix": "patchmix", "patchmix": PatchMixConfig(4)}
    runs = [
        write_run(tmp_path, "none", 0.8, method="moco-v3"),
        write_run(tmp_path, "mixed", 0.8, method="moco-v3", **words),
    ]
    groups = groups_of(runs)
    none, mixed = sorted(groups, key=lambda g: g.settings["mix"])
    assert beyond(mixed, none) == []


def groups_of(runs: list[Path], protocol: str = "online") -> list[Group]:
    return group(alike([read_scores(run, protocol) for run in runs]))


def test_the_same_seeds_are_compared_seed_by_seed(tmp_path: Path) -> None:
    none, mixed = groups_of(pair(tmp_path, NONE, UNMIX))
    found = difference(mixed, none)
    pairs = np.array(UNMIX) - np.array(NONE)
    assert found.value == pytest.approx(pairs.mean())
    assert found.error == pytest.approx(pairs.std(ddof=1) / np.sqrt(3))
    assert found.kind == "paired" and found.freedom == 2
    reach = 4.302653 * found.error  # Student's t of two degrees of freedom, from a table
    assert found.interval == pytest.approx((found.value - reach, found.value + reach))
    assert found.resolved
    assert none.mean == pytest.approx(np.mean(NONE))
    assert none.spread == pytest.approx(np.std(NONE, ddof=1))


@pytest.mark.parametrize(("first", "count"), [(1, 3), (0, 2)])
def test_other_seeds_are_compared_as_welch_did(tmp_path: Path, first: int, count: int) -> None:
    mixed_values = UNMIX[:count]
    none, mixed = groups_of(pair(tmp_path, NONE, mixed_values, first=first))
    found = difference(mixed, none)
    error = np.sqrt(np.var(NONE, ddof=1) / 3 + np.var(mixed_values, ddof=1) / count)
    assert found.kind == "welch" and found.error == pytest.approx(error)
    student = stats.ttest_ind(mixed_values, NONE, equal_var=False)
    assert found.freedom == pytest.approx(student.df)
    assert found.interval == pytest.approx(student.confidence_interval(0.95))
    assert found.value == pytest.approx(np.mean(mixed_values) - np.mean(NONE))


def test_seeds_that_tie_but_for_rounding_resolve_nothing(tmp_path: Path) -> None:
    none, mixed = groups_of(pair(tmp_path, [0.20, 0.36], [0.22, 0.38]))
    found = difference(mixed, none)
    assert found.value == pytest.approx(0.02)
    assert found.error == 0 and found.interval is None and not found.resolved


def test_one_seed_has_no_error_and_resolves_nothing(tmp_path: Path) -> None:
    none, mixed = groups_of(pair(tmp_path, [0.1], [0.9]))
    found = difference(mixed, none)
    assert none.spread is None and found.error is None and not found.resolved
    assert found.value == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("value", "error", "resolved"),
    [
        (0.02, 0.01 * 2 / 2.776, False),
        (0.02, 0.01 * 2 / 2.777, True),
        (-0.02, 0.01 * 2 / 2.777, True),
        (0.0, 0.0, False),
        (0.02, 0.0, False),  # a tie of scores of few images, not certainty
        (0.5, None, False),
    ],
)
def test_unresolved_is_an_interval_with_zero(
    value: float, error: float | None, resolved: bool
) -> None:
    """Student's t of four degrees of freedom is 2.7764."""
    assert Difference(value, error, "paired", 4).resolved is resolved


def test_a_group_leaves_out_the_seed_and_what_changes_no_result(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, "a", seed=1),
        write_run(tmp_path, "b", seed=0, workers=7, log_every=3, output=Path("elsewhere")),
        write_run(tmp_path, "d", seed=0, lr=0.3),
        write_run(tmp_path, "e", seed=0, mix="unmix"),
        write_run(tmp_path, "f", seed=0, epochs=3, step=150),
        write_run(tmp_path, "g", seed=0, method="moco"),
    ]
    names = [[run.run.name for run in one.runs] for one in groups_of(runs)]
    assert names == [["b", "a"], ["d"], ["e"], ["f"], ["g"]]
    same = write_run(tmp_path, "c", seed=0, mix_prob=0.1, mix_beta=3.0)  # mean nothing without one
    with pytest.raises(ValueError, match=r"b and .*c have the same settings and seed 0"):
        groups_of([*runs, same])


def test_the_base_is_the_nearest_without_the_mixture(tmp_path: Path) -> None:
    slow, fast, mixed, other, alone = groups_of([
        write_run(tmp_path, "a", lr=0.1),
        write_run(tmp_path, "b", lr=0.3),
        write_run(tmp_path, "c", lr=0.3, mix="unmix", mix_prob=0.2),
        write_run(tmp_path, "d", lr=0.5, mix="region"),
        write_run(tmp_path, "e", lr=0.3, mix="region", method="moco"),
    ])  # fmt: skip
    groups, none = [slow, fast, mixed, other, alone], {"mix": "none"}
    every = [one.settings for one in groups]
    assert base_of(mixed, groups, none) is fast and beyond(mixed, fast) == []
    assert base_of(other, groups, none) is None  # two are equally near
    assert base_of(other, [slow, other], none) is slow and beyond(other, slow) == ["lr"]
    assert base_of(alone, groups, none) is None
    assert base_of(slow, groups, none) is None
    assert name_of(mixed.settings, every) == "simclr + unmix, lr 0.3"
    assert name_of(alone.settings, every) == "moco + region"


def test_a_collected_file_stands_for_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a measure, which counts only where it is asked for."""
    runs = []
    for seed, (plain, mixed) in enumerate(zip((0.7, 0.8, 0.75), (0.6, 0.65, 0.7), strict=True)):
        for mix, sure in (("none", plain), ("unmix", mixed)):
            line = {"protocol": "linear", "linear_top1": 0.5, "linear_confidence": sure}
            folder = write_run(tmp_path, f"{mix}-{seed}", line=line, mix=mix, seed=seed)
            runs.append(collect.write(folder, tmp_path / "collected"))
    words = [*map(str, runs), "--protocol", "linear", "--markdown"]
    assert run_main(compare.main, *words, "--score", "linear_confidence") == 0
    assert "| simclr + unmix | 3 | 65.00 | 5.00 | -10.00 | 2.89 |" in capsys.readouterr().out
    assert run_main(compare.main, *words) == 0
    assert "| simclr + unmix | 3 | 50.00 | 0.00 | +0.00 | 0.00 |" in capsys.readouterr().out


def test_a_line_without_the_measure_is_passed_over(tmp_path: Path) -> None:
    """As a score of an older version, repeated by this one."""
    for measured in ({}, {"feature_entropy": 0.8}, {}):
        run = write_run(tmp_path, "run", line={"knn_top1": 0.5, **measured})
    assert [s.value for s in read_scores(run, "knn", "feature_entropy")] == [0.8]
    assert [s.value for s in read_scores(run, "knn")] == [0.5] * 3


def test_images_that_changed_between_scores_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_run(tmp_path, "a", line={"contents": "x y"})
    b = write_run(tmp_path, "b", mix="unmix", line={"contents": "x z"})
    c = write_run(tmp_path, "c", mix="region", line={})  # of an older version
    assert run_main(compare.main, str(a), str(b), str(c)) == 0
    assert "were scored on images with other contents" in capsys.readouterr().out
    assert run_main(compare.main, str(a), str(c)) == 0
    assert "other contents" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"settings": 1, "seed": 0}'])
def test_another_json_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    assert run_main(compare.main, str(path)) == 2
    assert "neither the folder of a run nor a file of tools/collect.py" in capsys.readouterr().err


def test_clim_is_compared_with_random_partners(tmp_path: Path) -> None:
    rules = ("centre", "knn", "random")
    runs = [write_run(tmp_path, "none", 0.4, method="moco")]
    for i, rule in enumerate(rules):
        clim = Config().clim.__class__(rule=rule)
        runs.append(write_run(tmp_path, rule, 0.5 + i / 100, method="moco", mix="clim", clim=clim))
    rows = {row.name: row for row in compare.rows_of(groups_of(runs), {"clim.rule": "random"})}
    assert set(rows) == {"moco", *(f"moco + clim, clim.rule {rule}" for rule in rules)}
    found = rows["moco + clim, clim.rule centre"].difference
    assert found and found.value == pytest.approx(0.50 - 0.52)
    assert rows["moco + clim, clim.rule random"].is_base


def test_eval_jsonl_counts_at_the_last_step_that_all_share(tmp_path: Path) -> None:
    for name, mix, steps in (("a", "none", (100, 200, 300)), ("b", "unmix", (200, 100, 100))):
        for i, step in enumerate(steps):
            write_run(tmp_path, name, 0.1, mix=mix, step=step, line={"knn_top1": step / 1000 + i})
            write_run(tmp_path, name, 0.1, mix=mix, step=step, line={"k": 5 + len(name + mix)})
    scored = alike([read_scores(tmp_path / name, "knn") for name in "ab"])
    assert [(s.step, s.value, s.protocol["k"]) for s in scored] == [
        (200, 1.2, 200),
        (200, 0.2, 200),
    ]
    (tmp_path / "b" / "eval.jsonl").write_text('{"protocol": "linear", "step": 1, "linear_top1"')
    assert read_scores(tmp_path / "b", "linear") == []  # a torn line


def test_detection_from_two_seeds_is_one_group(tmp_path: Path) -> None:
    """The run's folder and the last loss are no protocol; other weights are not the run's score."""
    runs = []
    for seed in (0, 1):
        run = write_run(tmp_path, f"seed-{seed}", seed=seed)
        line = {"protocol": "detect", "dataset": "demo", "steps": 120, "ap": 0.1 + seed / 10}
        own = line | {"weights": "run", "origin": str(run), "step": 100, "loss": 1.0 + seed}
        other = line | {"weights": "random", "origin": "random", "step": None, "loss": 2.0, "ap": 0}
        (run / "eval.jsonl").write_text("".join(json.dumps(x) + "\n" for x in (own, other)))
        runs.append(run)
    (one,) = group(alike([read_scores(run, "detect") for run in runs]))
    assert one.values == pytest.approx([0.1, 0.2])
    assert compare.main(["--protocol", "detect", *map(str, runs)]) == 0


def test_the_online_score_is_the_last(tmp_path: Path) -> None:
    (score,) = read_scores(write_run(tmp_path, "a", 0.7), "online")
    assert (score.step, score.value) == (100, 0.7)
    (score,) = read_scores(tmp_path / "a", "online", "knn_top5")
    assert score.value == 1.0


REFUSED = {
    "other steps": (({}, {"step": 50}), "step 100 and 50"),
    "other data": (({}, {"data": "cifar100"}), "data cifar10 and cifar100"),
    "same seed": (({}, {}), "seed 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_apples_and_pears_are_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (a, b), named = REFUSED[case]
    runs = [str(write_run(tmp_path, name, **s)) for name, s in (("a", a), ("b", b))]  # type: ignore[arg-type]
    assert compare.main(runs) == 2
    said = capsys.readouterr().err
    assert named in said and "a and " in said and "Traceback" not in said


def test_other_protocols_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path, "a", line={"k": 200})
    b = write_run(tmp_path, "b", mix="unmix", line={"k": 20})
    assert compare.main([str(a), str(b)]) == 2
    assert "k 200 and 20" in capsys.readouterr().err
    assert compare.main([str(a), str(b), "--protocol", "linear"]) == 2
    assert "eval.py linear RUN" in capsys.readouterr().err
    assert compare.main([str(a), str(b), "--protocol", "liner"]) == 2
    assert "--protocol liner is unknown: did you mean linear?" in capsys.readouterr().err
    c = write_run(tmp_path, "c", mix="region", knn_k=30)
    assert compare.main([str(a), str(c)]) == 2
    assert "(These are scores of training: " in capsys.readouterr().err
    assert compare.main([str(a), str(b), "--protocol", "online", "--score", "f1"]) == 2
    assert "'f1'" in capsys.readouterr().err
    for words, named in (([str(a), str(a)], "named twice"), ([str(tmp_path)], "folder of a run")):
        assert compare.main(words) == 2
        assert named in capsys.readouterr().err
    assert compare.main([str(a), "--base", "none"]) == 2
    assert "--base none" in capsys.readouterr().err


def test_table_markdown_json_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(run) for run in pair(tmp_path, NONE, UNMIX)]
    runs.append(str(write_run(tmp_path, "im", 0.7, mix="im", lr=0.3)))
    plot = tmp_path / "plot.png"
    assert compare.main([*runs, "--output", str(plot)]) == 0
    said = capsys.readouterr().out
    assert (
        "+1.23" in said and "unresolved" in said and "unknown" in said and "lr None -> 0.3" in said
    )
    with Image.open(plot) as picture:
        assert min(picture.size) > 300
    assert compare.main([*runs, "--markdown"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[3].startswith("| simclr + region, lr None | 3 | 81.33 | 0.45 | +1.23 | 0.26 |")
    assert compare.main([*runs, "--json"]) == 0
    base, region, im = json.loads(capsys.readouterr().out)["groups"]
    assert region["base"] == base["name"] and region["resolved"] and not im["resolved"]
    assert region["interval"][0] > 0 and im["interval"] is None
    assert region["standard_error_kind"] == "paired" and im["standard_error"] is None
    assert im["differs_beside_the_mixture"] == ["lr"]
    assert [run["seed"] for run in base["runs"]] == [0, 1, 2]

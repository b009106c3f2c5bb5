"""Scores against plain loops, features in row order, and eval.py on a real run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from runs import reset_accelerate, run_main, two_steps
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import eval as evaluation
from models import neighbors
from tools.evaluation import opening
from tools.scoring import features
from tools.scoring.accuracy import confidence
from tools.scoring.features import evaluating, extract
from tools.scoring.knn import knn, knn_sweep
from tools.scoring.plan import HeadPlan, Vote
from tools.scoring.probe import fit, linear_sweep

EUCLIDEAN = Vote(distance="euclidean")


def clusters(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n points round three centres, 60 degrees apart on average, and their labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    centres = np.random.default_rng(0).normal(size=(3, 8))
    points = centres[label] + 2.0 * rng.normal(size=(n, 8))
    return torch.from_numpy(points).float(), torch.from_numpy(label)


def test_knn_is_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", 30)  # of the bank
    monkeypatch.setattr(neighbors, "PRODUCTS", 30 * 9)  # nine queries at a time
    bank, bank_labels = clusters(70, 1)
    queries, labels = clusters(40, 2)
    ours = knn(bank, bank_labels, queries, labels, k=11, temperature=0.1)
    right = 0
    unit = bank.double().numpy() / np.linalg.norm(bank, axis=1, keepdims=True)
    for query, label in zip(queries.double().numpy(), labels, strict=True):
        similarity = unit @ (query / np.linalg.norm(query))
        votes = np.zeros(3)
        for i in np.argsort(-similarity)[:11]:
            votes[bank_labels[i]] += np.exp(similarity[i] / 0.1)
        right += int(votes.argmax() == label)
    assert ours["knn_top1"] == pytest.approx(right / 40)
    assert 0.5 < ours["knn_top1"] < 1 and ours["knn_top5"] == 1


def blobs(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n points of six overlapping classes, far from the origin."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 6, n)
    points = 30 + np.eye(6)[label] + 0.7 * rng.normal(size=(n, 6))
    return torch.from_numpy(points).float(), torch.from_numpy(label)


def test_majority_of_euclidean_neighbours_is_scikit_learn_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", 70)  # of the bank
    monkeypatch.setattr(neighbors, "PRODUCTS", 70 * 7)  # seven queries at a time
    (bank, y_bank), (queries, y) = blobs(300, 1), blobs(200, 2)
    ours = knn_sweep(bank, y_bank, queries, y, ks=[1, 4, 5, 30], vote=Vote("majority", "euclidean"))
    for (k, _), numbers in ours.items():
        theirs = KNeighborsClassifier(k, algorithm="brute").fit(bank.double(), y_bank)
        assert numbers == {"knn_top1": pytest.approx(theirs.score(queries.double(), y))}
    assert len({numbers["knn_top1"] for numbers in ours.values()}) > 1


def test_weighted_euclidean_votes_are_scikit_learn_s() -> None:
    (bank, y_bank), (queries, y) = blobs(300, 1), blobs(200, 2)
    ours = knn_sweep(bank, y_bank, queries, y, ks=[20], temperatures=[0.3], vote=EUCLIDEAN)
    theirs = KNeighborsClassifier(20, weights=lambda d: np.exp(-d / 0.3), algorithm="brute")
    theirs.fit(bank.double(), y_bank)
    assert ours[20, 0.3]["knn_top1"] == pytest.approx(theirs.score(queries.double(), y))


def test_a_sweep_of_neighbours_is_each_alone() -> None:
    (bank, y_bank), (queries, y) = clusters(70, 1), clusters(40, 2)
    ks, temperatures = (3, 11, 70), (0.05, 0.2)
    together = knn_sweep(bank, y_bank, queries, y, ks=ks, temperatures=temperatures)
    assert list(together) == [(k, t) for k in ks for t in temperatures]
    for (k, t), numbers in together.items():
        assert numbers == knn(bank, y_bank, queries, y, k=k, temperature=t)


@pytest.mark.parametrize("plan", [HeadPlan(6, 32), HeadPlan(6, 32, "adam", schedule="exponential")])
def test_many_heads_are_each_alone(plan: HeadPlan) -> None:
    (x, y), (queries, _) = blobs(150, 1), blobs(50, 2)
    lrs = (0.001, 0.01, 0.03)
    together = fit(x, y, 6, lrs, plan, seed=4).scores(queries)
    for lr, seen in zip(lrs, together, strict=True):
        (alone,) = fit(x, y, 6, (lr,), plan, seed=4).scores(queries)
        assert torch.equal(seen, alone)
    assert not torch.equal(together[0], together[1])


def test_a_head_is_plain_sgd() -> None:
    """Against NumPy: momentum, weight decay, drops of the rate, a short last batch."""
    x, y = blobs(40, 3)
    plan = HeadPlan(3, 16, weight_decay=0.01, schedule="step", milestones=(1, 2), factor=0.2)
    (seen,) = fit(x, y, 6, (0.002,), plan, seed=5).scores(x)
    generator = torch.Generator().manual_seed(5)
    weight = torch.empty(6, 6).normal_(std=0.01, generator=generator).double().numpy()
    theta = np.hstack([weight, np.zeros((6, 1))])
    speed = np.zeros_like(theta)
    rows = np.hstack([x.double().numpy(), np.ones((40, 1))])
    for epoch in range(3):
        for some in torch.randperm(40, generator=generator).split(16):
            logits = rows[some] @ theta.T
            share = np.exp(logits - logits.max(1, keepdims=True))
            share /= share.sum(1, keepdims=True)
            share[np.arange(len(some)), y[some]] -= 1
            speed = 0.9 * speed + share.T @ rows[some] / len(some) + 0.01 * theta
            theta = theta - 0.002 * 0.2**epoch * speed
    np.testing.assert_allclose(seen.numpy(), rows @ theta.T, atol=2e-4)


def test_confidence_is_the_mean_probability_of_the_predicted_class() -> None:
    """By hand: e / (e + 2) = 0.57612 and 1 / 3."""
    logits = torch.tensor([[1.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    assert confidence(logits) == pytest.approx((0.57612 + 1 / 3) / 2, abs=1e-5)


def test_a_head_that_diverges_has_no_score_and_the_others_do() -> None:
    x, y = blobs(60, 1)
    found = linear_sweep(x, y, x, y, lrs=[0.01, 1e38], plan=HeadPlan(3))
    assert list(found) == [0.01]
    with pytest.raises(ValueError, match="--lr"):
        linear_sweep(x, y, x, y, lrs=[1e38], plan=HeadPlan(3))


def test_rows_without_a_class_neither_vote_nor_count() -> None:
    bank, bank_labels = clusters(60, 1)
    queries, labels = clusters(30, 2)
    alone = knn(bank, bank_labels, queries, labels, k=5)
    junk = torch.randn(20, 8)
    joined = knn(
        torch.cat([junk, bank]), torch.cat([torch.full((20,), -1), bank_labels]),
        torch.cat([junk, queries]), torch.cat([torch.full((20,), -1), labels]), k=5,
    )  # fmt: skip
    assert alone == joined


@pytest.mark.parametrize(("k", "named"), [(0, "--k"), (61, "--k")])
def test_a_k_that_does_not_fit_is_refused(k: int, named: str) -> None:
    x, y = clusters(60, 1)
    with pytest.raises(ValueError, match=named):
        knn(x, y, x, y, k=k)


def test_linear_probe_separates_what_is_separable_and_repeats_itself() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, 300)
    x = torch.from_numpy(np.eye(4)[label] * 3 + 0.3 * rng.normal(size=(300, 4))).float()
    y = torch.from_numpy(label)
    plan = HeadPlan(20, 256, "sgd", 0.9, 0.0)

    def probe(labels: torch.Tensor, seed: int) -> dict[str, float]:
        data = (x[:200], labels, x[200:], y[200:])
        return linear_sweep(*data, lrs=[1.0], plan=plan, seed=seed)[1.0]

    first, again = (probe(y[:200], 3) for _ in range(2))
    assert first["linear_top1"] > 0.98 and first == again
    shuffled = y[:200][torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert probe(shuffled, 0)["linear_top1"] < 0.6


def test_features_come_in_row_order_and_modes_return() -> None:
    reset_accelerate()
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[2].eval()
    images = torch.arange(21.0).view(7, 3, 1, 1)
    batches = [(images[rows], np.array(rows)) for rows in ([4, 5, 6], [0, 1], [2, 3])]
    seen = extract(model, model, batches, 7, Accelerator(cpu=True))
    torch.testing.assert_close(seen, images.view(7, 3), atol=1e-3, rtol=1e-4)
    assert model.training and model[1].training and not model[2].training
    with evaluating(model):
        assert not model[1].training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gpu_keeps_half_precision_for_knn_alone(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a loss: the rows were rounded by the network, and are widened to be compared."""
    reset_accelerate()
    images = torch.randn(7, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    batches = [(images[rows], np.array(rows)) for rows in ([4, 5, 6], [0, 1], [2, 3])]

    def found(half: bool) -> torch.Tensor:
        encode = lambda x: x.flatten(1).to(dtype)  # noqa: E731
        return extract(nn.Flatten(), encode, batches, 7, Accelerator(cpu=True), half=half)

    assert found(True).dtype == torch.float32  # of the host
    monkeypatch.setattr(features, "on_gpu", lambda x: True)
    assert found(False).dtype == torch.float32
    bank = found(True)
    assert bank.dtype == dtype and torch.equal(bank.float(), found(False))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    scores = [knn(x, labels, x, labels, k=3) for x in (bank, bank.float())]
    assert scores[0] == scores[1]


def test_a_row_missing_or_twice_is_an_error() -> None:
    reset_accelerate()
    model, images = nn.Flatten(), torch.zeros(2, 3, 1, 1)
    for rows in ([0, 1], [0, 0]):
        with pytest.raises(RuntimeError, match="exactly once"):
            extract(model, model, [(images, np.array(rows))], 3, Accelerator(cpu=True))


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_steps("moco", toy, tmp_path_factory.mktemp("runs"))


def run_eval(*flags: str) -> int:
    return run_main(evaluation.main, *flags)


@pytest.mark.parametrize(
    ("flags", "score"),
    [
        (("knn", "--k", "5"), "knn_top1"),
        (("knn", "--k", "5", "--features", "projection"), "knn_top1"),
        (("knn", "--k", "5", "--rule", "majority", "--distance", "euclidean"), "knn_top1"),
        (("linear", "--epochs", "3"), "linear_top1"),
        (("linear", "--epochs", "2", "--images", "augmented"), "linear_top1"),
        (("linear", "--epochs", "2", "--preset", "whitening"), "linear_top1"),
    ],
)
def test_each_protocol_appends_its_numbers(
    run: Path, flags: tuple[str, ...], score: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_eval(*flags, "--run", str(run)) == 0
    line = json.loads((run / "eval.jsonl").read_text().splitlines()[-1])
    assert 0 <= line[score] <= 1 and line["protocol"] == flags[0]
    assert line["step"] == 2 and line["train_images"] == 40 and line["val_images"] == 12
    out = capsys.readouterr().out
    assert "top-1" in out and "does not hold" not in out


def test_images_that_took_the_place_of_the_training_s_are_noted(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    note = "does not hold the images of the training (as many, with other contents)"
    monkeypatch.setattr(opening, "sample_key", lambda table: "another")
    assert run_eval("knn", "--k", "5", "--run", str(run)) == 0
    assert note in capsys.readouterr().out
    assert run_eval("knn", "--k", "5", "--run", str(run), "--subset", "0.5") == 0
    assert "does not hold" not in capsys.readouterr().out  # other images are asked for


def test_a_sweep_is_a_table_and_a_line_each(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(written(run))
    flags = ("--k", "3", "20", "--temperature", "0.07", "0.1")
    assert run_eval("knn", "--run", str(run), *flags) == 0
    lines = written(run)[before:]
    assert [(x["k"], x["temperature"]) for x in lines] == [
        (3, 0.07), (3, 0.1), (20, 0.07), (20, 0.1),
    ]  # fmt: skip
    told = capsys.readouterr().out
    assert "highest of 4" in told and "picked on the images" in told
    assert run_eval("linear", "--run", str(run), "--epochs", "2", "--lr", "0.3", "3") == 0
    assert [x["lr"] for x in written(run)[before + 4 :]] == [0.3, 3.0]
    assert "highest of 2" in capsys.readouterr().out


def written(run: Path) -> list[dict]:
    """The lines of eval.jsonl, none without the file."""
    file = run / "eval.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("knn", "--k", "100"), "--k 100"),
        (("knn", "--k", "5", "100"), "--k 100"),
        (("knn", "--k", "5", "--temperature", "0"), "--temperature 0"),
        (("knn", "--k", "5", "--rule", "majority", "--temperature", "0.2"), "--temperature"),
        (("linear", "--schedule", "step"), "--milestones"),
        (("linear", "--lr", "0.1", "0"), "--lr"),
        (("knn", "--k", "5", "--val-data", "none"), "--val-data"),
        (("knn", "--checkpoint", "nowhere.pt"), "nowhere.pt"),
        (("linear", "--data", "folder:nowhere"), "nowhere"),
        (("knn", "--device-paths", "fused"), "--device-paths fused needs a CUDA device"),
    ],
)
def test_bad_requests_are_one_line(
    run: Path, flags: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_eval(*flags, "--run", str(run)) == 2
    said = capsys.readouterr().err
    assert named in said and "Traceback" not in said


def test_no_run_is_said_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_eval("knn", "--run", str(tmp_path / "none")) == 2
    assert "none" in capsys.readouterr().err

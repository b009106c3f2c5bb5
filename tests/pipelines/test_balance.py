"""Sampling by weight: probabilities, distinct rows in a step, ranks, resume; files of weights."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.balance import Balance, balance_of
from pipelines.rng import RowRng
from pipelines.sampler import BlockShuffle, Sampler

RNG = np.random.default_rng(0)
WEIGHTS = {
    "alike": (np.ones(103), 8),
    "alike, no row left over": (np.ones(96), 8),
    "uneven": (RNG.random(200) ** 3, 16),
    "some in every step": (np.r_[np.full(5, 50.0), np.ones(95)], 32),
    "zeros": (np.r_[np.ones(9), np.zeros(20)], 8),
    "all in every step": (np.arange(1.0, 9.0), 8),
    "wide": (np.r_[1e-12, 1e12, np.ones(40)], 4),
}


def epoch_of(weights: np.ndarray, batch: int, epoch: int, seed: int = 3) -> np.ndarray:
    """Rows of all steps of an epoch, (steps, batch)."""
    steps = len(weights) // batch
    return Balance(weights).shuffled(batch, RowRng(seed, epoch)).reshape(steps, batch)


@pytest.mark.parametrize("name", WEIGHTS)
def test_rows_of_a_step_differ_and_an_epoch_has_the_expected_number(name: str) -> None:
    weights, batch = WEIGHTS[name]
    expected = Balance(weights).probabilities(batch) * (len(weights) // batch)
    assert expected.sum() == pytest.approx(batch * (len(weights) // batch))
    for epoch in range(5):
        rows = epoch_of(weights, batch, epoch)
        assert all(len(set(step)) == batch for step in rows.tolist())
        count = np.bincount(rows.ravel(), minlength=len(weights))
        assert (count >= np.floor(expected - 1e-6)).all()
        assert (count <= np.ceil(expected + 1e-6)).all()


def test_equal_weights_show_each_row_at_most_once_an_epoch() -> None:
    for num_rows in range(8, 60):
        rows = epoch_of(np.full(num_rows, 0.1), 8, 0).ravel()
        assert len(rows) == len(np.unique(rows)) == num_rows // 8 * 8


def test_each_step_draws_by_weight() -> None:
    """Of one step, too, and of a group of places: not only of whole epochs."""
    weights, batch = np.r_[np.full(10, 6.0), np.ones(90)], 16
    wanted = Balance(weights).probabilities(batch)
    np.testing.assert_allclose(wanted[[0, -1]], [16 * 6 / 150, 16 / 150])
    first = np.stack([epoch_of(weights, batch, epoch)[0] for epoch in range(1200)])
    seen = np.bincount(first.ravel(), minlength=100) / 1200
    np.testing.assert_allclose(seen, wanted, atol=0.06)
    half = np.bincount(first[:, :8].ravel(), minlength=100) / 1200
    np.testing.assert_allclose(half, wanted / 2, atol=0.05)


def test_pairs_of_rows_meet_in_some_epochs_only() -> None:
    weights = np.ones(40)
    together = [
        any({0, 1} <= set(step) for step in epoch_of(weights, 8, epoch).tolist())
        for epoch in range(600)
    ]
    assert np.mean(together) == pytest.approx(7 / 39, abs=0.06)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_rows_of_one_process_and_any_step_stands_alone(world_size: int) -> None:
    weights, batch = WEIGHTS["uneven"]
    straight = [Sampler(200, batch, 5, balance=Balance(weights)).rows(step) for step in range(30)]
    for step in RNG.permutation(30).tolist():
        ranks = [
            Sampler(200, batch, 5, rank, world_size, balance=Balance(weights))
            for rank in range(world_size)
        ]
        together = np.concatenate([sampler.rows(step) for sampler in ranks])
        np.testing.assert_array_equal(together, straight[step])
    assert (straight[0] != straight[12]).any()  # 12 steps an epoch


def test_capped_rows_leave_the_rest_to_the_others_by_weight() -> None:
    share = Balance(np.r_[100.0, 2.0, 1.0, 1.0]).probabilities(2)
    np.testing.assert_allclose(share, [1, 0.5, 0.25, 0.25])
    text = Balance(np.r_[100.0, 2.0, 1.0, 1.0, 0.0]).summary(2)
    assert "0.5 to 2 times" in text and "1 of weight 0 never" in text
    assert "1 are in every step" in text


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 weights for 8 images"):
        Sampler(8, 2, balance=Balance(np.ones(3)))
    with pytest.raises(ValueError, match="3 images have a weight above 0, and --batch-size 4"):
        Sampler(8, 4, balance=Balance(np.r_[np.ones(3), np.zeros(5)]))
    with pytest.raises(ValueError, match="--order random"):
        Sampler(8, 2, blocks=BlockShuffle(np.arange(8)), balance=Balance(np.ones(8)))


class Names:
    """A source of four rows."""

    def name(self, row: int) -> str:
        return f"/data/train/{'ab'[row // 2]}/{row % 2}.png"


LABEL = np.array([0, 0, 0, 1])


def test_classes_weigh_alike() -> None:
    weights = balance_of("class", LABEL, Names()).weights
    np.testing.assert_allclose(weights, [1 / 3, 1 / 3, 1 / 3, 1])
    with pytest.raises(ValueError, match="1 of 4 images have no class; --balance FILE"):
        balance_of("class", np.array([0, 0, -1, 1]), Names())


@pytest.mark.parametrize(
    "text",
    [
        "1\n2\n\n0.5\n0\n",
        "a/0.png 1\na/1.png\t2\nb/1.png 0\nb/0.png 0.5\n",
        "/data/train/b/1.png 0\n/data/train/a/0.png 1\na/1.png 2\ntrain/b/0.png 5e-1",
        "a/0.png 1\na/1.png 2\nb/0.png 0.5\nb/1.png 0\nof/another.png 7\n",
    ],
)
def test_a_file_holds_weights_by_row_or_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.txt"
    file.write_text(text)
    made = balance_of(str(file), LABEL, Names())
    np.testing.assert_allclose(made.weights, [1, 2, 0.5, 0])
    assert ("1 lines of the file name none" in made.summary(1)) == ("another" in text)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("1\n2\n3\n", "3 weights for 4 images: write one for each image"),
        ("1\n2\nx\n3\n", "line 3: 'x' is no weight"),
        ("1\n-2\n1\n3\n", "line 2: '-2' is no weight"),
        ("1\nnan\n1\n3\n", "line 2: 'nan' is no weight"),
        ("0.png 1\n", "'0.png' ends the path of several images"),
        ("a/0.png 1\na/1.png 1\n", "2 of 4 images have no weight, as /data/train/b/0.png"),
        ("a/0.png 1\n2\n", "line 2 names no image, and others do"),
        ("a/0.png 1\ntrain/a/0.png 1\n", "'train/a/0.png' has a second weight"),
        (None, "cannot be read"),
    ],
)
def test_files_that_leave_a_weight_open_are_refused(
    text: str | None, wrong: str, tmp_path: Path
) -> None:
    file = tmp_path / "weights.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=wrong) as error:
        balance_of(str(file), LABEL, Names())
    assert str(error.value).startswith(f"--balance {file}: ")

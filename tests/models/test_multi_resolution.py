"""Multi-resolution: each side's terms equal those of a batch of that side; keys come once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_cases import Case, build, make_batch
from mix_cases import mix_views
from runs import SMALL, TINY, lines, run_train

from models.methods import Method
from models.multi_resolution import join_sides
from models.settings.base import QuerySizes, Reduce
from pipelines.batch import Batch
from pipelines.mixtures.unmix import UnMix

METHODS = {
    "moco": Case("moco", bn="group"),
    "moco symmetric": Case("moco", (("symmetric", True), ("queue", 40)), bn="group"),
    "moco-v3": Case("moco-v3"),
}


def further(batch: Batch, queries: tuple[int, ...]) -> tuple[Batch, Batch]:
    """A batch with its query views at half the side as well, and one with those alone."""
    small = {q: batch.views[q][..., ::2, ::2] * 1.1 for q in queries}
    mixed = [replace(m, image=m.image[..., ::2, ::2] * 0.9) for m in batch.mixed]
    places = {q: 2 + i for i, q in enumerate(queries)}
    both = replace(
        batch,
        views=(*batch.views, *small.values()),
        mixed=(*batch.mixed, *(replace(m, view=places[m.view]) for m in mixed)),
    )
    return both, replace(batch, mixed=tuple(mixed), views=tuple(small.values()))


def queries_alone(method: Method, batch: Batch, small: Batch) -> dict[str, torch.Tensor]:
    """The terms of ``small``'s queries against the keys of ``batch``'s views."""
    asked = list(small.views)
    ours = {id(x): y for x, y in zip(batch.views, asked, strict=False)}
    query = method._query
    method._query = lambda x: query(ours.get(id(x), x))
    terms = method(replace(batch, mixed=small.mixed))
    del method._query
    return terms


@pytest.mark.parametrize("reduce", ["mean", "sum-half"])
@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_that_of_each_side_against_the_first_side_s_keys(
    name: str, reduce: Reduce
) -> None:
    case, share = METHODS[name], 0.5
    batch = make_batch(case)
    method = build(case).eval()  # the running statistics do not depend on the order of encodings
    queries = method.sizes.queries
    both, small = further(batch, queries)
    expected = [method(batch), queries_alone(method, batch, small)]
    method.sizes = QuerySizes(queries, 2, reduce)
    terms = method(both)
    assert terms.keys() == expected[0].keys() and len(terms) > 1
    for key, value in terms.items():
        torch.testing.assert_close(value, share * (expected[0][key] + expected[1][key]))
    assert not torch.allclose(expected[0]["clean"], expected[1]["clean"])


def test_sum_half_of_three_sides_weighs_more_than_their_mean() -> None:
    terms = [{"clean": torch.tensor(float(x))} for x in (1, 2, 6)]
    assert join_sides(terms, QuerySizes((0,), 3, "mean"))["clean"].item() == pytest.approx(3)
    assert join_sides(terms, QuerySizes((0,), 3, "sum-half"))["clean"].item() == pytest.approx(4.5)


def test_keys_enter_the_queue_once() -> None:
    case = METHODS["moco"]
    batch = make_batch(case)
    one, two = build(case), build(case)
    two.sizes = QuerySizes((0,), 2)
    for method, given in ((one, batch), (two, further(batch, (0,))[0])):
        method(given)
        method.after_step(0.5)
    assert torch.equal(one.queue.rows, two.queue.rows)


def test_copies_are_counted_behind_the_views() -> None:
    assert QuerySizes((0,), 3).copies(2) == {2: 0, 3: 0}
    assert QuerySizes((0, 1), 3).copies(2) == {2: 0, 3: 1, 4: 0, 5: 1}
    assert QuerySizes((0, 1), 1).copies(2) == {}


def test_a_mixture_s_box_is_scaled_to_each_side_and_its_share_is_counted() -> None:
    views = [torch.rand(4, 3, side, side) for side in (224, 224, 160, 96)]
    for step in range(40):
        copies = {2: 0, 3: 0}
        mixed = mix_views(UnMix(0.0), views, (0, 2, 3), step=step, group=4, copies=copies)
        boxes = []
        for m in mixed:
            changed = (m.image != views[m.view]).any(1).any(0).nonzero()
            side = views[m.view].shape[-1]
            assert m.lam[0].item() == pytest.approx(1 - len(changed) / side**2, abs=1e-6)
            boxes.append((changed.float() / side).aminmax(dim=0) if len(changed) else None)
        for box in boxes[1:]:
            if boxes[0] is not None and box is not None:
                assert (box.min - boxes[0].min).abs().max() < 2.1 / 96
                assert (box.max - boxes[0].max).abs().max() < 2.1 / 96


@pytest.mark.parametrize("mix", ["none", "unmix", "clim"])
def test_a_run_shows_queries_at_each_side(toy: Path, tmp_path: Path, mix: str) -> None:
    extra = ["--clim.neighbours", "4", "--clim.start-epoch", "0"] if mix == "clim" else []
    run = (*("--data", f"folder:{toy}", "--loader", "memory"), "--name", "r", "--method", "moco")
    small = [*SMALL["moco"], "--resolutions", "16", "12", "--limit-steps", "2", "--mix", mix]
    assert run_train(*TINY, "--output", str(tmp_path), *run, *small, *extra) == 0
    losses = [line["loss"] for line in lines(tmp_path / "r") if "loss" in line]
    assert np.isfinite(losses).any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method", "simclr", "--resolutions", "32", "24"), "--resolutions"),
        (("--method", "moco", "--resolutions", "32", "24", "--image-size", "48"), "--image-size"),
        (("--method", "moco", "--resolutions", "32", "--multi-scale", "24"), "--multi-scale"),
    ],
)
def test_what_does_not_fit_is_refused(
    flags: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    try:
        status = run_train("--output", str(tmp_path), "--backbone", "resnet10t", *flags)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err

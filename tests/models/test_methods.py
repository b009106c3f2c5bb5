"""Laws of all methods in one process (several processes: test_distributed.py)."""

from __future__ import annotations

import copy
import dataclasses
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import (
    CASES,
    CROPS,
    CROSS,
    SIZES,
    SMALL,
    Case,
    TinyNet,
    build,
    make_batch,
    mirrored,
    total,
)
from torch import Tensor

from models import losses
from models.methods import METHODS, Method, build_method, moco
from models.methods.base import Setup
from models.methods.dino import Dino, scores
from models.methods.moco import Moco
from models.methods.moco_v3 import MocoV3
from models.methods.swav import Swav
from models.settings.base import MethodConfig, QuerySizes
from pipelines.batch import Batch, Mixed

MIXED = [case for case in CASES if case.mixed]


def settings_of(case: Case) -> MethodConfig:
    return METHODS[case.method].settings(**dict(case.options))


def train_steps(method: Method, batches: list[Batch], lr: float = 0.05) -> list[float]:
    optimizer = torch.optim.SGD(method.parameters(), lr=lr, momentum=0.9)
    values = []
    for i, batch in enumerate(batches):
        loss = total(method(batch))
        loss.backward()
        method.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(i / len(batches))
        values.append(float(loss.detach()))
    return values


def assert_same(a: Any, b: Any, atol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.no_cover
@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_goes_down(case: Case) -> None:
    thawed = {"swav": ("freeze_steps", 0), "dino": ("freeze_epochs", 0)}
    if case.method in thawed:
        case = dataclasses.replace(case, options=(*case.options, thawed[case.method]))
    method = build(case, torch.float32)
    batch = make_batch(case, dtype=torch.float32)
    if isinstance(method, Dino):  # from 0 the center would move the targets faster than they learn
        method(batch)
        method.centre.value.copy_(method.centre._staged[0])
    first = copy.deepcopy(method)
    if isinstance(method, Moco):  # on one batch the queue would be its own keys: keep the first
        method.queue.commit = lambda count: None
    train_steps(method, [dataclasses.replace(batch, step=i) for i in range(30)])
    before, after = total(first(batch)), total(method(batch))
    assert after < before - 0.1 * before.abs()


@pytest.mark.parametrize("case", MIXED, ids=str)
def test_lam_one_gives_the_loss_of_the_view_itself(case: Case) -> None:
    method = build(case)
    batch = make_batch(case, lam=torch.ones(case.rows))
    for m in batch.mixed:
        assert m.image.equal(batch.views[m.view])
    terms = method(batch)
    mixed = sum(v for k, v in terms.items() if k.startswith("mixed"))
    options = dict(case.options)
    if options.get("symmetric") and not options.get("mix_each"):  # keys of x1 and of x0
        expected = _moco_halves(method, batch)
    elif options.get("mix_online"):  # 2 d(p(x0), t(x1)), one half of the clean term
        x0, x1 = batch.views
        expected = 2 * losses.cosine_gap(method._predict(x0), method._target(x1)).mean()
    elif options.get("reverse") == "predict":  # the pair (1, 0) only
        z = method.embed_views([*batch.views, batch.mixed[0].image]).chunk(3)
        log_p = losses.log_assignment(method.prototypes.scores(z[0]), 0.1)
        expected = losses.cross_entropy(method.prototypes.code(z[1], 1, None), log_p).mean()
    elif case.method == "moco-v3":  # x0's mixture meets the keys of x1 and of x0
        expected = _moco_v3_halves(method, batch)
    elif case.method == "dino":
        expected = _dino_pairs(method, batch)
    elif case.names == CROSS:  # the mixture's embedding is the view's
        expected = 0 * terms["clean"]
    else:
        expected = terms["clean"]
    assert_same(mixed, expected, 1e-9)


def moco_keys(method: Moco, images: torch.Tensor, batch: Batch, half: int = 0) -> torch.Tensor:
    """Unit keys of a view, encoded as those of the first or second half of a step."""
    with torch.no_grad():
        if not method.keys.shuffle:
            return losses.unit(method.key_encoder(images))
        return method.keys.encode(method.key_encoder, [images] * (half + 1), batch)[half]


def _moco_halves(method: Moco, batch: Batch) -> Tensor:
    x0, x1 = batch.views
    q = method._query(x0)
    negatives = losses.log_negatives(q, method.queue.rows, 0.2)
    keys = moco_keys(method, x1, batch), moco_keys(method, x0, batch, half=1)
    halves = [losses.info_nce(q, k, negatives, 0.2) for k in keys]
    return torch.stack(halves).sum(0).mean()


def _moco_v3_halves(method: MocoV3, batch: Batch) -> Tensor:
    x0, x1 = batch.views
    q, t = method._query(x0), method.temperature
    logits = [q @ method._keys(x).T / t for x in (x0, x1)]
    rows = [torch.nn.functional.cross_entropy(x, batch.position) for x in logits]
    return 2 * t * torch.stack(rows).sum()


def _dino_pairs(method: Dino, batch: Batch) -> Tensor:
    """The pairs that predict from view 0 or 2, which have mixtures."""
    targets = method._targets(batch).split(len(batch.index))
    z = method.embed_views([*batch.views, *(m.image for m in batch.mixed)])
    log_p = losses.log_assignment(scores(z, method.prototypes), 0.1).split(len(batch.index))
    mixed = [m.view for m in batch.mixed]
    pairs = [(a, v) for a in (0, 1) for v in mixed if a != v]
    return torch.stack([losses.cross_entropy(targets[a], log_p[v]).mean() for a, v in pairs]).mean()


@pytest.mark.parametrize("case", MIXED, ids=str)
def test_the_mixture_equals_its_two_orders(case: Case) -> None:
    """Spec 1.4: the reversed images give the reversed embeddings, so both orders weigh one loss.

    Exchanging every mixture for its mirror image and lam for 1 - lam changes nothing.
    """
    if dict(case.options).get("reverse") == "code":
        pytest.skip("the released code is not symmetric: spec 1.8")
    if case.names == CROSS:
        pytest.skip("a mixture across views is compared with the rows of the clean views")
    batch = make_batch(case)
    swapped = tuple(
        Mixed(m.view, m.image[m.partner], m.partner, 1 - m.lam[m.partner]) for m in batch.mixed
    )
    method = build(case)
    one = method(batch)
    two = method(dataclasses.replace(batch, mixed=swapped))
    for key in one:
        assert_same(one[key], two[key], 1e-10)


@pytest.mark.parametrize("bn", ["group", "sync"])
def test_reversed_images_give_reversed_embeddings(bn: str) -> None:
    case = Case("moco", bn=bn)
    method, x = build(case), make_batch(case).views[0]
    flip = mirrored(case.rows, case.groups)
    assert_same(method._query(x[flip]), method._query(x)[flip])


def test_group_statistics_are_used_where_asked() -> None:
    x = make_batch(Case("moco")).views[0]
    with torch.no_grad():
        grouped, synced = (build(Case("moco", bn=bn))._query(x) for bn in ("group", "sync"))
    assert (grouped - synced).abs().max() > 1e-3


def test_moco_against_its_formula() -> None:
    """Spec 1.5: the sum of both halves and both orders, by explicit flips."""
    case = Case("moco", (("symmetric", True),), "sync", groups=1)
    batch = make_batch(case, lam=torch.full((16,), 0.3, dtype=torch.float64))
    method = build(case)
    queue = method.queue.rows

    def cross_entropy(q: Tensor, k: Tensor) -> Tensor:
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / 0.2
        return torch.nn.functional.cross_entropy(logits, torch.zeros(16, dtype=torch.int64))

    q0, q1, qm = (method._query(x) for x in (*batch.views, batch.mixed[0].image))
    k0, k1 = (moco_keys(method, x, batch) for x in batch.views)
    terms = method(batch)
    assert_same(terms["clean"], cross_entropy(q0, k1) + cross_entropy(q1, k0))
    back = qm.flip(0)
    expected = 0.3 * (cross_entropy(qm, k1) + cross_entropy(qm, k0))
    expected += 0.7 * (cross_entropy(back, k1) + cross_entropy(back, k0))
    assert_same(terms["mixed_0"], expected)


def test_moco_can_mix_each_view_for_the_other_s_keys() -> None:
    case = Case("moco", (("symmetric", True), ("mix_each", True)))
    method, batch = build(case), make_batch(case)
    assert method.mixed_views(2) == (0, 1)
    negatives = method.queue.rows
    terms = method(batch)
    for m, x in zip(batch.mixed, reversed(batch.views), strict=True):
        q, k = method._query(m.image), moco_keys(method, x, batch)
        below = losses.log_negatives(q, negatives, 0.2)
        own, other = (losses.info_nce(q, keys, below, 0.2) for keys in (k, k[m.partner]))
        assert_same(terms[f"mixed_{m.view}"], (m.lam * own + (1 - m.lam) * other).mean())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo looks
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("bn", ["group", "sync"])
def test_symmetric_moco_s_statistics_are_the_released_ones(
    bn: str, sides: int, compiled: bool
) -> None:
    """Spec 1.5: the release encodes x0, m, x1, m; of each step m has .1 + .1 .9^2 of .3439."""
    case = Case("moco", (("symmetric", True),), bn)
    method, batch = build(case), make_batch(case)
    x, m = list(batch.views), list(batch.mixed)
    if sides == 2:
        method.sizes = QuerySizes((0, 1), 2)
        x += [view[:, :, ::2, ::2] for view in x]
        m.append(dataclasses.replace(m[0], view=2, image=m[0].image[:, :, ::2, ::2]))
        batch = dataclasses.replace(batch, views=tuple(x), mixed=tuple(m))
    released = copy.deepcopy(method.backbone)
    if compiled:
        method.backbone.compile(backend="eager")
    for _ in range(2):
        total(method(batch)).backward()
        for side in range(sides):
            for images in (x[2 * side], m[side].image, x[2 * side + 1], m[side].image):
                released(images)
    for (name, found), (_, expected) in zip(
        method.backbone.named_buffers(), released.named_buffers(), strict=True
    ):
        if "running" in name:
            assert_same(found, expected, 1e-12)
    everything = 1 - 0.9**4
    assert (0.1 + 0.081) / everything == pytest.approx(0.526, abs=5e-4)


@pytest.mark.parametrize(
    "case",
    [
        Case("moco", (("symmetric", True),), "group"),
        Case("moco", (("symmetric", True), ("mix_each", True)), "group"),
        Case("moco", (("symmetric", True),), "group", mixed=False),
        Case("moco", (), "group"),
    ],
    ids=str,
)
def test_the_weight_of_statistics_changes_no_loss(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a gradient; nor, where the release encodes nothing twice, the statistics."""

    def step() -> tuple[dict[str, Tensor], list[Tensor], dict[str, Tensor]]:
        method = build(case)
        terms = method(make_batch(case))
        total(terms).backward()
        gradients = [p.grad for p in method.parameters() if p.grad is not None]
        return terms, gradients, dict(method.backbone.named_buffers())

    found = step()
    monkeypatch.setattr(moco, "replay_running_stats", lambda *_: nullcontext())
    terms, gradients, buffers = step()
    assert all(found[0][name].equal(value) for name, value in terms.items())
    assert all(a.equal(b) for a, b in zip(found[1], gradients, strict=True))
    twice = case.mixed and case.options == (("symmetric", True),)
    assert all(found[2][name].equal(value) for name, value in buffers.items()) != twice


def test_moco_shuffles_each_half_afresh() -> None:
    """Spec 1.5: a new permutation for each key forward, undone in the result."""
    for bn, differs in (("group", True), ("sync", False)):
        case = Case("moco", (("symmetric", True),), bn)
        method, batch = build(case), make_batch(case)
        first, second, again = (moco_keys(method, batch.views[0], batch, half=h) for h in (0, 1, 0))
        assert first.equal(again)
        assert ((first - second).abs().max() > 1e-6) == differs


def test_byol_against_its_formula() -> None:
    case = Case("byol", groups=1)
    batch = make_batch(case, lam=torch.full((16,), 0.3, dtype=torch.float64))
    method = build(case)

    def both(a: Tensor, b: Tensor) -> Tensor:
        gap = losses.cosine_gap
        return (
            gap(method._predict(a), method._target(b)) + gap(method._predict(b), method._target(a))
        ).mean()

    (x0, x1), m = batch.views, batch.mixed[0].image
    terms = method(batch)
    assert_same(terms["clean"], both(x0, x1))
    assert_same(terms["mixed_0"], 0.3 * both(x1, m) + 0.7 * both(x1, m.flip(0)))


def test_swav_against_its_formulas() -> None:
    """Spec 1.8, four crops: the published code and the author's, by explicit flips."""
    lam = 0.3
    batch = make_batch(
        Case("swav", sizes=CROPS, groups=1), lam=torch.full((16,), lam, dtype=torch.float64)
    )
    for reverse in ("paper", "code"):
        method = build(Case("swav", (("reverse", reverse),), sizes=CROPS, groups=1))
        images = [*batch.views, *(m.image for m in batch.mixed)]
        z = method.embed_views(images).chunk(len(images))

        def loss(assigned: list[Tensor], predicted: list[Tensor], method: Swav = method) -> Tensor:
            out = torch.zeros((), dtype=torch.float64)
            for a in (0, 1):
                code = method.prototypes.code(assigned[a], a, None)
                for v in range(4):
                    if v != a:
                        log_p = losses.log_assignment(method.prototypes.scores(predicted[v]), 0.1)
                        out = out + losses.cross_entropy(code, log_p).mean() / 2 / 3
            return out

        clean, mixed = z[:4], [z[4], z[1], z[5], z[3]]
        back = [z[4].flip(0), z[1], z[5].flip(0), z[3]]
        expected = lam * loss(mixed, mixed)
        expected += (1 - lam) * (loss(back, back) if reverse == "paper" else loss(back, mixed))
        terms = method(batch)
        assert_same(terms["clean"], loss(clean, clean))
        assert_same(terms["mixed"], expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_changes_no_state_but_running_statistics(case: Case) -> None:
    method = build(case)
    train_steps(method, [make_batch(case, i) for i in range(3)])
    before = copy.deepcopy(method.state_dict())
    method(make_batch(case, 3))
    method(make_batch(case, 3))
    kept = re.compile(r"running_|num_batches")
    for name, value in method.state_dict().items():
        assert kept.search(name) or value.equal(before[name]), name


@pytest.mark.no_cover
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_repeated_forward_does_not_reach_the_next_state(case: Case) -> None:
    def after(repeats: int) -> dict[str, Tensor]:
        method = build(case)
        for step in (2, 3):  # SwAV queues from step 2
            for _ in range(repeats):
                method(make_batch(case, step))
            method.after_step(0.5)
        kept = re.compile("queue|proto|bank|centre")
        return {k: v for k, v in method.state_dict().items() if kept.search(k)}

    once, twice = after(1), after(2)
    for name, value in once.items():
        assert_same(value, twice[name])


@pytest.mark.parametrize("case", [c for c in CASES if c.mixed or not c.mixes], ids=str)
def test_the_queue_knows_nothing_of_mixtures_or_labels(case: Case) -> None:
    """Also law 10: a label changes no loss."""
    batch = make_batch(case, 2)
    states, terms = [], []
    for other in (batch, dataclasses.replace(batch, label=batch.label * 0 - 1)):
        method = build(case)
        terms.append(method(other))
        method.after_step(0.0)
        states.append({k: v for k, v in method.state_dict().items() if re.search("queue|bank", k)})
    for key in terms[0]:
        assert terms[0][key].equal(terms[1][key])
    if case.method != "swav":  # there clean and mixed crops share batch statistics
        method = build(case)
        clean = dataclasses.replace(batch, mixed=())
        method(clean)
        method.after_step(0.0)
        states.append({k: v for k, v in method.state_dict().items() if re.search("queue|bank", k)})
    for state in states[1:]:
        for name, value in states[0].items():
            assert value.equal(state[name])


def test_moco_queue_is_a_ring() -> None:
    case = Case("moco", (("symmetric", True), ("queue", 40)), mixed=False)
    method = build(case)
    expected = method.queue.rows.clone()
    pointer = 0
    for step in range(4):
        batch = make_batch(case, step)
        keys = torch.cat([moco_keys(method, x, batch) for x in batch.views])  # x0 first
        method(batch)
        method.after_step(0.0)
        for row in keys:
            expected[pointer % 40] = row
            pointer += 1
        assert_same(method.queue.rows, expected)
        assert int(method.queue.pointer) == pointer % 40


def test_swav_queue_enters_when_full_and_holds_clean_rows() -> None:
    case = Case("swav", (("queue", 40), ("queue_start_epoch", 1)), sizes=CROPS)
    method = build(case)
    for step in range(7):
        batch = make_batch(case, step)
        images = [*batch.views, *(m.image for m in batch.mixed)]
        z = method.embed_views(images).chunk(len(images))
        queue = method.queue if step >= method.queue_start else None
        codes = [method.prototypes.code(z[0], 0, q) for q in (queue, None)]
        used = (codes[0] - codes[1]).abs().max() > 1e-9
        # queued from step 2 (epoch 1); 16 + 16 + 16 rows fill 40 after step 4
        assert used == (step >= 5)
        method(batch)
        method.after_step(0.0)
        if step >= 2:
            start = 16 * (step - 2)
            slots = torch.arange(start, start + 16) % 40
            assert_same(method.queue.rows[slots], torch.cat(z[:2], 1).detach())


def test_swav_prototypes_stay_on_the_sphere_and_freeze() -> None:
    case = Case("swav", (("freeze_steps", 2),))
    method = build(case)
    start = method.prototypes.weight.detach().clone()
    assert method.prototypes.weight.requires_grad
    assert_same(start.norm(dim=1), torch.ones(6, dtype=torch.float64), 1e-6)
    train_steps(method, [make_batch(case, i) for i in range(2)])
    assert_same(method.prototypes.weight.detach(), start, 1e-6)
    train_steps(method, [make_batch(case, 2)])
    assert (method.prototypes.weight - start).abs().max() > 1e-4
    assert_same(method.prototypes.weight.detach().norm(dim=1), torch.ones(6, dtype=torch.float64))


@pytest.mark.no_cover
@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_dict_continues_bit_identically(case: Case, tmp_path: Path) -> None:
    straight = build(case)
    train_steps(straight, [make_batch(case, i) for i in range(5)])
    torch.save(straight.state_dict(), tmp_path / "method.pt")
    resumed = build(case)
    resumed.load_state_dict(torch.load(tmp_path / "method.pt", weights_only=True))
    later = [make_batch(case, i) for i in range(5, 8)]
    assert train_steps(straight, later) == train_steps(resumed, later)


def test_target_starts_equal_and_follows_parameters_only() -> None:
    case = Case("byol", (("momentum", 0.5),))
    method = build(case)
    follower, online = dict(method.target.named_parameters()), method.backbone
    name, parameter = next(iter(online.named_parameters()))
    assert follower[f"0.{name}"].equal(parameter)
    assert not any(p.requires_grad for p in method.target.parameters())
    start = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1.0)
    statistics = [b.clone() for b in method.target.buffers()]
    method.after_step(0.0)
    assert_same(follower[f"0.{name}"], start + 0.5)
    method.after_step(1.0)  # the momentum has risen to 1
    assert_same(follower[f"0.{name}"], start + 0.5)
    assert all(a.equal(b) for a, b in zip(statistics, method.target.buffers(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_outputs_for_evaluation_and_monitors(name: str) -> None:
    case = Case(name, sizes=SIZES.get(name, (8, 8)), mixed=METHODS[name].settings.supports_unmix)
    method = build(case, torch.float32)
    batch = make_batch(case, dtype=torch.float32)
    last = tuple(v.contiguous(memory_format=torch.channels_last) for v in batch.views)
    total(method(dataclasses.replace(batch, views=last))).backward()
    values = method.monitors()
    assert {"features_std", "features_rank", "projection_std", "projection_rank"} <= set(values)
    assert ("prototype_usage" in values) == (name in ("swav", "dino"))
    assert all(torch.isfinite(v) and v.ndim == 0 for v in values.values())
    method.eval()
    assert method.features(batch.views[0]).shape == (16, 16)
    z = method.project(batch.views[0])
    assert_same(z.norm(dim=1), torch.ones(16), 1e-5)
    assert method.mixed_views(2) == (0,)
    assert build(Case("swav", sizes=CROPS)).mixed_views(8) == (0, 2, 4, 6)


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_autocast(name: str) -> None:
    case = Case(name, sizes=SIZES.get(name, (8, 8)), mixed=METHODS[name].settings.supports_unmix)
    method, batch = build(case, torch.float32), make_batch(case, dtype=torch.float32)
    exact = total(copy.deepcopy(method)(batch))
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(batch)
    assert {v.dtype for v in terms.values()} == {torch.float32}
    total(terms).backward()
    method.after_step(0.0)
    assert_same(total(terms), exact, 0.1)


def test_refusals_name_the_flag() -> None:
    def make(name: str, views: int = 2, **options: Any) -> None:
        known = METHODS.get(name, METHODS["moco"])
        config = known.settings(**(SMALL.get(name, {}) | options))
        build_method(
            name,
            config,
            TinyNet(),
            Setup(
                bn="sync",
                group_size=4,
                batch_size=16,
                seed=0,
                steps_per_epoch=2,
                num_views=views,
            ),
        )

    for text, call in {
        "--method mocco": lambda: make("mocco"),
        r"8 views \(--crops\): exactly 2; these methods can: swav, dino, wmse$": lambda: make(
            "byol", views=8
        ),
        "at least 2": lambda: make("swav", views=1),
        "--moco.queue": lambda: make("moco", queue=8),
        "--moco.symmetric": lambda: make("moco", queue=24, symmetric=True),
        "--swav.queue": lambda: make("swav", queue=8),
        "--swav.reverse code": lambda: make("swav", queue_mixtures=True),
        "--moco.mix-each": lambda: make("moco", mix_each=True),
        "exactly 1": lambda: make("insdis"),
        "--wmse.sub-batch 6": lambda: make("wmse", sub_batch=6),
        "--wmse.dim 8": lambda: make("wmse", dim=8),
        "number of images": lambda: make("insdis", views=1),
    }.items():
        with pytest.raises(ValueError, match=text):
            call()


@pytest.mark.parametrize(
    "name", sorted(n for n, e in METHODS.items() if e.settings().supports_unmix)
)
def test_two_mixtures_of_a_view_have_a_term_each(name: str) -> None:
    """With statistics of groups, every term is the one that its mixture has alone."""
    case = Case(name, bn="group")
    batch = make_batch(case)
    masks = tuple(
        dataclasses.replace(m, image=m.image.flip(2), lam=1 - m.lam, name="mask")
        for m in batch.mixed
    )
    both = build(case)(dataclasses.replace(batch, mixed=(*batch.mixed, *masks)))
    first, second = (build(case)(dataclasses.replace(batch, mixed=m)) for m in (batch.mixed, masks))
    assert len(both) == len(first) + len(second) - 1
    for term, value in {**first, **second}.items():
        assert_same(both[term], value, 1e-10)
    with pytest.raises(ValueError, match="two names"):
        dataclasses.replace(batch, mixed=batch.mixed * 2)


@pytest.mark.parametrize(
    "case", [c for c in CASES if not c.mixed and len(settings_of(c).pasted_views) > 1], ids=str
)
def test_target_networks_see_the_views_before_scalemix(case: Case) -> None:
    method, batch = build(case), make_batch(case)
    pasted = tuple(view + 3.0 if v < 2 else view for v, view in enumerate(batch.views))
    batch = dataclasses.replace(batch, views=pasted, plain=batch.views)
    seen: dict[str, list[Tensor]] = {"online": [], "target": []}
    for name, encoder in zip(seen, method.encoders(), strict=True):
        encoder.register_forward_pre_hook(lambda _, x, kept=seen[name]: kept.append(x[0]))
    method(batch)
    for name, views in (("online", batch.views), ("target", batch.plain[:2])):
        rows = [x.mean((1, 2, 3)) for x in seen[name]]  # which may be shuffled
        expected = [view.mean((1, 2, 3)) for view in views]
        assert_same(torch.cat(rows).sort().values, torch.cat(expected).sort().values)

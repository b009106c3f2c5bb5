"""Detection: readers, the demo's boxes, the detector's parts, its training, its score."""

import dataclasses
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from runs import reset_accelerate, run_main, two_steps
from torch import nn

import eval as evaluation
from tools.evaluation.detection import demo, scoring
from tools.evaluation.detection.backbone import open_backbone, supervised
from tools.evaluation.detection.coco import coco
from tools.evaluation.detection.dataset import Annotations, DetectionDataset, read_image
from tools.evaluation.detection.detector import Sizes, build_detector, channels, check_backbone
from tools.evaluation.detection.schedule import SCHEDULES, DetectionSchedule
from tools.evaluation.detection.scoring import Detections, average_precision, detect
from tools.evaluation.detection.training import average_norms, batches, train
from tools.evaluation.detection.voc import CLASSES, read_annotation, voc

scored = pytest.mark.skipif(find_spec("pycocotools") is None, reason="pycocotools is not installed")

SMALL_SIZES = Sizes((64,), regions=8, proposals=8, grid=4)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def jpeg(path: Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 99, np.uint8)).save(path)


def thing(name: str, box: tuple[float, ...], extra: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inside = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{extra}<bndbox>{inside}</bndbox></object>"


@pytest.fixture
def voc_dir(tmp_path: Path) -> Path:
    """Three pictures: two dogs, one of them difficult; a person with a marked head; nothing."""
    root = tmp_path / "VOCdevkit" / "VOC2007"
    head = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    things = {
        "000001": thing("dog", (1, 2, 20, 30)) + thing("dog", (3, 3, 9, 9), hard()),
        "000002": thing("person", (5.5, 6, 40, 30), head),
        "000003": "",
    }
    for name, text in things.items():
        jpeg(root / "JPEGImages" / f"{name}.jpg")
        xml = root / "Annotations" / f"{name}.xml"
        xml.parent.mkdir(exist_ok=True)
        xml.write_text(f"<annotation>{text}</annotation>")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/trainval.txt").write_text("000001\n000002\n\n")
    (root / "ImageSets/Main/test.txt").write_text("000003\n000001  1\n")
    return tmp_path


def hard() -> str:
    return "<difficult>1</difficult>"


def test_voc_is_read_as_published(voc_dir: Path) -> None:
    data = voc(voc_dir, ("2007/trainval", "2007/test"))
    assert data.classes == CLASSES and len(CLASSES) == 20 and len(data) == 4
    first, second, empty, again = data.annotations
    np.testing.assert_array_equal(first.boxes, [[0, 1, 20, 30], [2, 2, 9, 9]])  # counted from 0
    assert [CLASSES[label] for label in first.labels] == ["dog", "dog"]
    assert first.difficult.tolist() == [False, True] and not first.crowd.any()
    np.testing.assert_array_equal(second.boxes, [[4.5, 5, 40, 30]])
    assert empty.boxes.shape == (0, 4) and again.labels.tolist() == first.labels.tolist()
    assert data.rows_to_learn().tolist() == [0, 1, 3]
    assert data.pixels(0).shape == (30, 40, 3)
    assert len(data.example(0, False)[1]["boxes"]) == 2  # difficult ones are learned from


def test_voc_layout_of_other_classes_keeps_the_labels_of_training(voc_dir: Path) -> None:
    file = voc_dir / "VOCdevkit/VOC2007/Annotations/000002.xml"
    file.write_text(f"<annotation>{thing('zebra', (1, 1, 5, 5))}</annotation>")
    data = voc(voc_dir, ("2007/trainval",))
    assert data.classes == ("dog", "zebra") and data.annotations[1].labels.tolist() == [1]
    assert voc(voc_dir, ("2007/test",), data.classes).annotations[1].labels.tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"000002.xml has the class zebra"):
        voc(voc_dir, ("2007/trainval",), CLASSES)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("<annotation><object>", "no valid XML"),
        (f"<annotation>{thing('dog', (1, 2, 3, 4))[:-30]}", "no valid XML"),
        ("<annotation><object><name>dog</name></object></annotation>", "object 1 has no whole"),
        (f"<annotation>{thing('', (1, 2, 3, 4))}</annotation>", "object 1 has no name"),
        (f"<annotation>{thing('dog', (9, 2, 3, 4))}</annotation>", "ends before it begins"),
    ],
)
def test_a_bad_annotation_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "7.xml").write_text(text)
    with pytest.raises(ValueError, match=f"7.xml.*{named}"):
        read_annotation(tmp_path / "7.xml")


@pytest.mark.parametrize(
    ("split", "named"),
    [
        ("2012/trainval", "no folder VOC2012"),
        ("2007/val", "val.txt"),
        ("trainval", "2007/trainval"),
    ],
)
def test_a_missing_list_is_named(voc_dir: Path, split: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        voc(voc_dir, (split,))


@pytest.fixture
def coco_dir(tmp_path: Path) -> Path:
    """Two pictures: a cat and a crowd of dogs; nothing. Numbers with gaps, out of order."""
    content = {
        "images": [{"id": 90, "file_name": "b.jpg"}, {"id": 7, "file_name": "a.jpg"}],
        "categories": [{"id": 44, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 90, "category_id": 3, "bbox": [2, 3, 10, 20], "iscrowd": 0},
            {"id": 2, "image_id": 90, "category_id": 44, "bbox": [0, 0, 30, 8.5], "iscrowd": 1},
            {"id": 3, "image_id": 90, "category_id": 44, "bbox": [5, 5, 0, 9]},
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(content))
    jpeg(tmp_path / "train2017" / "a.jpg")
    jpeg(tmp_path / "train2017" / "b.jpg", 11, 20)
    return tmp_path


def test_coco_is_read_as_published(coco_dir: Path) -> None:
    data = coco(coco_dir, ("train2017",))
    assert data.classes == ("cat", "dog")
    assert [data.pixels(row).shape for row in (0, 1)] == [(20, 11, 3), (30, 40, 3)]  # b, then a
    objects, empty = data.annotations
    np.testing.assert_array_equal(objects.boxes[:2], [[2, 3, 12, 23], [0, 0, 30, 8.5]])
    assert objects.labels.tolist() == [0, 1, 1] and objects.crowd.tolist() == [False, True, False]
    assert empty.boxes.shape == (0, 4) and data.rows_to_learn().tolist() == [0]
    _, target = data.example(0, False)  # neither the crowd nor what has no area; cut off
    assert target["boxes"].tolist() == [[2, 3, 11, 20]] and target["labels"].tolist() == [1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text[:-5], "no valid JSON"),
        (lambda text: text.replace('"images"', '"pictures"'), "'images' is missing"),
        (lambda text: text.replace("10, 20", "10"), "COCO's format"),
        (
            lambda text: text.replace('"category_id": 3', '"category_id": 4'),
            "annotation 1 is of no",
        ),
        (lambda text: "[1, 2]", "COCO's format"),
        (lambda text: text.replace("b.jpg", "c.jpg"), "c.jpg is missing"),
    ],
)
def test_a_bad_coco_file_is_named(coco_dir: Path, change: Callable[[str], str], named: str) -> None:
    file = coco_dir / "annotations/instances_train2017.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=named):
        coco(coco_dir, ("train2017",))


def test_other_classes_in_validation_are_refused(coco_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"not those of training.*bird"):
        coco(coco_dir, ("train2017",), ("bird", "cat", "dog"))
    with pytest.raises(ValueError, match="--data-dir"):
        coco(coco_dir / "nowhere", ("train2017",))


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"x.jpg cannot be read"):
        read_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_box_of_the_demo_holds_its_patch_and_no_more(split: demo.Split) -> None:
    seen = 0
    for index in range(12):
        layout = demo.lay_out(split, index)
        whole = demo.paint(split, layout)
        assert whole.shape == (demo.CANVAS, demo.CANVAS, 3)
        for number, patch in enumerate(layout.patches):
            others = layout.patches[:number] + layout.patches[number + 1 :]
            without = demo.paint(split, dataclasses.replace(layout, patches=others))
            rows, columns = np.nonzero((whole != without).any(2))
            left, top, right, bottom = patch.box
            assert (columns.min(), rows.min()) == (left, top)
            assert (columns.max() + 1, rows.max() + 1) == (right, bottom)
            assert len(rows) > 0.9 * (right - left) * (bottom - top)
            seen += 1
    assert seen > 12


def test_a_demo_picture_depends_on_its_index_alone() -> None:
    long, short = demo.demo("val"), demo.demo("val", 3)
    assert len(long) == demo.PICTURES["val"] and short.classes == demo.CLASSES
    np.testing.assert_array_equal(long.pixels(2), short.pixels(2))
    np.testing.assert_array_equal(long.annotations[2].boxes, short.annotations[2].boxes)
    assert (demo.demo("train", 3).pixels(2) != short.pixels(2)).any()
    labels = np.concatenate([objects.labels for objects in long.annotations])
    assert set(labels) == set(range(5))


def test_no_pixel_of_validation_is_trained_on() -> None:
    photographs = demo.find_photographs()
    for name, path in photographs.items():
        widths = [demo.regions(split)[name].width for split in ("train", "val")]
        with Image.open(path) as photograph:
            assert sum(widths) == photograph.width


def test_the_published_schedules() -> None:
    plan = SCHEDULES["voc"]
    assert (plan.steps, plan.batch_size, plan.sizes.short_sides[::10]) == (24_000, 16, (480, 800))
    rates = [plan.rate(step) for step in (0, 50, 100, 17_999, 18_000, 21_999, 22_000)]
    assert rates == pytest.approx([2e-5, 0.01001, 0.02, 0.02, 2e-3, 2e-3, 2e-4])
    coco_plan = SCHEDULES["coco"]
    steps = (119_999, 120_000, 160_000)
    assert [coco_plan.rate(s) for s in steps] == pytest.approx([0.02, 2e-3, 2e-4])
    assert coco_plan.sizes.short_sides == (640, 672, 704, 736, 768, 800)
    stretched = dataclasses.replace(plan, steps=240)
    assert stretched.rate(180) == pytest.approx(2e-3) and stretched.rate(220) == pytest.approx(2e-4)


def test_mirroring_moves_boxes_with_their_pixels() -> None:
    pixels = np.zeros((10, 16, 3), np.uint8)
    pixels[2:5, 1:7] = 200
    box = Annotations.of([((1, 2, 7, 5), 0, False, False)])
    data = DetectionDataset(("square",), [box], lambda row: pixels)
    image, target = data.example(0, mirrored=False)
    turned, moved = data.example(0, mirrored=True)
    np.testing.assert_array_equal(image.permute(1, 2, 0), pixels)
    assert target["boxes"].tolist() == [[1, 2, 7, 5]]
    left, top, right, bottom = moved["boxes"][0].int().tolist()
    assert (turned[:, top:bottom, left:right] == 200).all() and turned.sum() == pixels.sum()
    np.testing.assert_array_equal(turned.flip(2), image)  # and back again
    assert [16 - right, top, 16 - left, bottom] == [1, 2, 7, 5]


@pytest.mark.parametrize("name", ["resnet10t", "test_resnet", "resnet26"])
def test_detectors_hold_the_backbone_bit_for_bit(name: str) -> None:
    for kind in ("c4", "fpn"):
        backbone = check_backbone(timm.create_model(name, num_classes=0), name)
        with torch.no_grad():
            for tensor in (*backbone.parameters(), *backbone.buffers()):
                if tensor.is_floating_point():
                    tensor.uniform_(0.5, 1.5)  # so that no two models agree by accident
        before = {key: value.clone() for key, value in backbone.state_dict().items()}
        detector = build_detector(backbone, kind, 3, SMALL_SIZES, MEAN, STD)
        own = detector.state_dict()
        for key, value in before.items():
            places = ("backbone", "backbone.body", "roi_heads.box_head")
            (found,) = (own[f"{at}.{key}"] for at in places if f"{at}.{key}" in own)
            torch.testing.assert_close(found, value, rtol=0, atol=0)
        assert all(p.requires_grad for p in detector.parameters())


@pytest.mark.parametrize(("name", "width"), [("resnet10t", 512), ("resnet26", 2048)])
def test_features_have_the_published_strides_and_widths(name: str, width: int) -> None:
    backbone = check_backbone(timm.create_model(name, num_classes=0), name)
    c4 = build_detector(backbone, "c4", 3, Sizes((64,)), MEAN, STD).eval()
    assert c4.backbone(torch.zeros(1, 3, 64, 96)).shape == (1, width // 2, 4, 6)
    assert c4.roi_heads.box_roi_pool.output_size == (14, 14)
    regions = torch.zeros(2, width // 2, 14, 14)
    assert c4.roi_heads.box_head.layer4(regions).shape == (2, width, 7, 7)
    assert c4.roi_heads.box_head(regions).shape == (2, width)
    assert c4.roi_heads.box_predictor(torch.zeros(2, width))[1].shape == (2, 4 * 4)

    backbone = check_backbone(timm.create_model(name, num_classes=0), name)
    fpn = build_detector(backbone, "fpn", 3, Sizes((64,)), MEAN, STD).eval()
    levels = [tuple(x.shape) for x in fpn.backbone(torch.zeros(1, 3, 64, 128)).values()]
    assert levels == [(1, 256, 64 // s, 128 // s) for s in (4, 8, 16, 32, 64)]


def test_the_extra_norm_follows_res5() -> None:
    backbone = check_backbone(timm.create_model("resnet10t", num_classes=0), "resnet10t")
    head = build_detector(backbone, "c4", 3, SMALL_SIZES, MEAN, STD).roi_heads.box_head.train()
    with torch.no_grad():
        x = torch.randn(8, channels(backbone, 3), 4, 4)
        rows = head.layer4(x)
        mean = rows.mean((0, 2, 3), keepdim=True)
        var = rows.var((0, 2, 3), keepdim=True, correction=0)
        normed = (rows - mean) / (var + head.norm.eps).sqrt()
        torch.testing.assert_close(head(x), normed.mean((2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_a_backbone_without_stages_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"stages of a ResNet.*{name}"):
        check_backbone(timm.create_model(name, num_classes=0), name)
    gray = timm.create_model("test_resnet", num_classes=0, in_chans=1)
    with pytest.raises(ValueError, match="RGB; test_resnet takes 1"):
        check_backbone(gray, "test_resnet")


def squares(num: int) -> DetectionDataset:
    """Pictures of 64 pixels with a bright square somewhere."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 32, (num, 2))

    def pixels(i: int) -> np.ndarray:
        x, y = corners[i]
        picture = np.full((64, 64, 3), 60, np.uint8)
        picture[y : y + 32, x : x + 32] = 250
        return picture

    boxes = [Annotations.of([((x, y, x + 32, y + 32), 0, False, False)]) for x, y in corners]
    return DetectionDataset(("square",), boxes, pixels)


def host() -> Accelerator:
    reset_accelerate()
    return Accelerator(cpu=True)


def losses_of(kind: str, plan: DetectionSchedule) -> list[float]:
    """What training says at each step."""
    torch.manual_seed(0)
    backbone = check_backbone(timm.create_model("test_resnet", num_classes=0), "test_resnet")
    model = build_detector(backbone, kind, 1, plan.sizes, MEAN, STD)
    said: list[str] = []
    last = train(model, squares(8), plan, host(), seed=3, workers=2, print_fn=said.append)
    losses = [float(line.split("loss ")[1].split()[0]) for line in said]
    assert last == pytest.approx(losses[-1], abs=1e-3)
    return losses


def test_training_lowers_the_loss_and_repeats_itself() -> None:
    plan = DetectionSchedule(20, (1.0,), 2, 4, 0.02, 1, SMALL_SIZES)
    losses = losses_of("c4", plan)
    assert len(losses) == 10 and losses == losses_of("c4", plan)
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    with pytest.raises(ValueError, match="lower --lr"):
        losses_of("c4", dataclasses.replace(plan, lr=1e30))


def test_the_loss_of_a_pyramid_reaches_every_weight() -> None:
    torch.manual_seed(0)
    backbone = check_backbone(timm.create_model("test_resnet", num_classes=0), "test_resnet")
    model = build_detector(backbone, "fpn", 1, SMALL_SIZES, MEAN, STD).train()
    plan = dataclasses.replace(SCHEDULES["demo"], batch_size=2, sizes=SMALL_SIZES)
    feed = batches(squares(4), plan, host(), seed=0, workers=1)
    torch.stack(list(model(*next(feed)).values())).sum().backward()
    feed.close()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and bool(g.isfinite().all()) for g in grads.values())
    stem = [g for name, g in grads.items() if name.startswith("backbone.body.conv1")]
    assert stem and all(bool(g.any()) for g in stem if g is not None)


def test_steps_share_out_pictures_and_labels_start_at_one() -> None:
    examples = squares(9)
    plan = dataclasses.replace(SCHEDULES["demo"], batch_size=4, sizes=SMALL_SIZES)
    shares = []
    for rank in range(2):
        accelerator = SimpleNamespace(
            process_index=rank, num_processes=2, device=torch.device("cpu")
        )
        feed = batches(examples, plan, accelerator, seed=1, workers=1)
        shares.append([next(feed) for _ in range(2)])
        feed.close()
    whole = batches(examples, plan, host(), seed=1, workers=1)
    for step in range(2):
        images, targets = next(whole)
        parts = [shares[rank][step] for rank in range(2)]
        for i, (image, target) in enumerate(zip(images, targets, strict=True)):
            other_image, other_target = parts[i // 2][0][i % 2], parts[i // 2][1][i % 2]
            torch.testing.assert_close(image, other_image, rtol=0, atol=0)
            torch.testing.assert_close(target["boxes"], other_target["boxes"])
            assert target["labels"].tolist() == [1] and 0 <= image.min() < image.max() <= 1
    whole.close()
    with pytest.raises(ValueError, match="batch-size"):
        train(nn.Linear(1, 1), squares(2), plan, host(), seed=0, workers=1, print_fn=print)


def test_settled_norms_hold_plain_means() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, images: list[torch.Tensor], targets: list) -> torch.Tensor:
            return self.norm(torch.stack(images))

    model, data = Norm(), torch.randn(5, 8, 2)
    feed = ((list(rows), []) for rows in data)
    average_norms(model, feed, 4, host())
    torch.testing.assert_close(model.norm.running_mean, data[:4].mean((0, 1)))
    torch.testing.assert_close(model.norm.running_var, data[:4].var(1).mean(0))
    assert model.norm.momentum == 0.1


def found(rows: list[tuple[tuple[float, ...], int, float]]) -> Detections:
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float32),
    )


A, B, C = (10, 10, 60, 60), (80, 10, 120, 90), (0, 100, 30, 130)


@scored
def test_perfect_boxes_score_one_and_others_less() -> None:
    objects = [Annotations.of([(A, 0, False, False), (B, 1, False, False)]), Annotations.of([])]
    perfect = [found([(A, 0, 0.9), (B, 1, 0.4)]), found([])]
    assert average_precision(perfect, objects) == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1})
    swapped = [found([(A, 1, 0.9), (B, 0, 0.4)]), found([])]
    assert average_precision(swapped, objects) == pytest.approx({"ap": 0, "ap50": 0, "ap75": 0})
    loose = (10, 10, 60, 46)  # 0.72 of A
    partly = average_precision([found([(loose, 0, 0.9), (B, 1, 0.4)]), found([])], objects)
    assert partly["ap50"] == pytest.approx(1) and partly["ap75"] == pytest.approx(0.5)
    assert partly["ap"] == pytest.approx((1 + 0.5) / 2)  # thresholds .5 to .7 of ten
    with pytest.raises(ValueError, match="no object"):
        average_precision([found([])], [Annotations.of([])])


@scored
def test_the_score_is_one_process_s_own_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)  # others do not answer
    objects = [Annotations.of([(A, 0, False, False)])]
    assert average_precision([found([(A, 0, 0.9)])], objects)["ap"] == pytest.approx(1)


@scored
@pytest.mark.parametrize(("difficult", "crowd"), [(True, False), (False, True)])
def test_ignored_objects_are_neither_missed_nor_wrongly_found(difficult: bool, crowd: bool) -> None:
    objects = [Annotations.of([(A, 0, False, False), (C, 0, difficult, crowd)])]
    assert average_precision([found([(A, 0, 0.5)])], objects)["ap"] == pytest.approx(1)
    assert average_precision([found([(C, 0, 0.9), (A, 0, 0.5)])], objects)["ap"] == pytest.approx(1)
    assert average_precision([found([(B, 0, 0.9), (A, 0, 0.5)])], objects)["ap"] == pytest.approx(
        0.5
    )


def test_each_picture_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Echo(nn.Module):
        """Finds one box whose score tells which picture it saw."""

        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            value = images[0].mean().reshape(1)
            box = torch.tensor([[0.0, 0, 1, 1]])
            return [{"boxes": box, "labels": torch.tensor([1]), "scores": value}]

    examples = squares(5)
    examples = dataclasses.replace(examples, pixels=lambda i: np.full((4, 4, 3), 10 * i, np.uint8))
    alone = [f.scores[0] for f in detect(Echo(), examples, host())]
    np.testing.assert_allclose(alone, np.arange(5) * 10 / 255, rtol=1e-5)
    parts: list = []
    monkeypatch.setattr(scoring, "gather_object", lambda own: parts.extend(own) or parts)
    ranks = [host_of(rank) for rank in range(2)]
    with pytest.raises(RuntimeError, match="3 of 5"):
        detect(Echo(), examples, ranks[0])
    assert [f.scores[0] for f in detect(Echo(), examples, ranks[1])] == alone


def host_of(rank: int) -> SimpleNamespace:
    one = host()
    return SimpleNamespace(
        process_index=rank, num_processes=2, device=one.device, autocast=one.autocast
    )


def test_loading_mirrors_on_request() -> None:
    examples = squares(1)
    (plain, before), (turned, after) = (examples.example(0, flip) for flip in (False, True))
    np.testing.assert_array_equal(turned.flip(2), plain)
    assert after["boxes"][0, 0] == 64 - before["boxes"][0, 2]


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_steps("simclr", toy, tmp_path_factory.mktemp("runs"), "--stem", "standard")


def test_the_weights_of_a_run_arrive(run: Path) -> None:
    saved = torch.load(run / "checkpoints/step-2.pt", weights_only=True)["method"]
    subject = open_backbone(run, None, None, "resnet50", 0)
    assert subject.step == 2 and subject.origin == str(run)
    own = subject.model.state_dict()
    assert own and all(torch.equal(own[key], saved[f"backbone.{key}"]) for key in own)
    fresh = open_backbone(run, "random", None, "resnet50", 5)
    again = open_backbone(run, "random", None, "resnet50", 5)
    assert fresh.step is None and fresh.mean == subject.mean
    key = "layer3.0.conv1.weight"
    assert key in own
    assert torch.equal(fresh.model.state_dict()[key], again.model.state_dict()[key])
    assert not torch.equal(fresh.model.state_dict()[key], own[key])


def test_supervised_weights_need_the_network_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> nn.Module:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"not download resnet50 \(OSError: no route.*HF_HOME"):
        supervised("resnet50")
    with pytest.raises(ValueError, match="timm has none for resnet50t"):
        supervised("resnet50t")


@scored
def test_detect_leaves_a_line_and_a_picture(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PICTURES", {"train": 8, "val": 4})
    flags = ("--run", str(run), "--steps", "2", "--batch-size", "2", "--short-sides", "64")
    assert run_main(evaluation.main, "detect", *flags) == 0
    line = json.loads((run / "eval.jsonl").read_text().splitlines()[-1])
    assert line["protocol"] == "detect" and line["step"] == 2
    assert (line["weights"], line["origin"]) == ("run", str(run))
    assert line["lr"] == pytest.approx(SCHEDULES["demo"].lr / 2) and line["val_images"] == 4
    assert all(0 <= line[name] <= 1 for name in ("ap", "ap50", "ap75"))
    said = capsys.readouterr().out
    assert "AP50" in said and "step 2/2" in said
    (picture,) = run.glob("detect-demo-c4-*.png")
    assert str(picture) in said and np.asarray(Image.open(picture)).std() > 10


@scored
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ((), "--run"),
        (("--weights", "random"), "--output"),
        (("--weights", "nowhere"), "nowhere"),
        (("--weights", "supervised", "--output", "x", "--backbone", "resnet10"), "no such model"),
        (("--weights", "random", "--output", "x", "--backbone", "convnext_atto"), "convnext_atto"),
        (("--weights", "random", "--output", "x", "--dataset", "voc"), "--data-dir"),
        (("--weights", "random", "--output", "x", "--lr", "0"), "--lr"),
        (("--weights", "random", "--output", "x", "--short-sides", "8"), "--short-sides"),
    ],
)
def test_bad_requests_are_one_line(
    flags: tuple[str, ...],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(evaluation.main, "detect", *flags) == 2
    said = capsys.readouterr().err
    assert named in said and "Traceback" not in said and not list(tmp_path.iterdir())

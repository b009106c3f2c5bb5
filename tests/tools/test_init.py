"""--init: where the weights are, what they name, and a run that starts from them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from runs import SMALL, TINY, lines, run_train, two_steps
from timm.models import save_for_hf
from torch import nn

from models.methods import METHODS
from models.optim import layer_shares
from models.settings.backbones import is_plain_vit, is_resnet, is_transformer
from models.settings.moco import MocoConfig
from models.settings.moco_v3 import MocoV3Config
from pipelines.data_facts import IMAGENET
from tools.config.cli import from_saved, to_dict
from tools.config.config import Config
from tools.config.init import arguments, check_backbone_name, named_backbone, start_of
from tools.config.resolve import describe_defaults, resolve, resolved
from tools.config.sides import sides_of
from tools.engine import build
from tools.engine.architecture import name_architecture
from tools.engine.start import load_init, read

OWN = """
from torch import nn

class Encoder(nn.Sequential):
    def __init__(self, width=8):
        super().__init__(
            nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
"""


@pytest.fixture(scope="module")
def source(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps whose backbone is a file's, at 16 pixels."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "mine.py").write_text(OWN)
    own = ("--backbone", f"{folder / 'mine.py'}:Encoder", "--backbone-args", "width=6")
    return two_steps("moco", toy / "train", folder, *own)


def settings(**values: Any) -> Any:
    return resolve(Config(**values), IMAGENET, "no")


SMALL_MOCO = MocoConfig(queue=64, dim=16)


def started(run: Path, **values: Any) -> tuple[Any, Any, list[str]]:
    """Settings, method and lines of a run that would start from another."""
    given = {"method": "moco", "moco": SMALL_MOCO, "batch_size": 16, "groups": 4, "image_size": 16}
    config = settings(**given, init=str(run), **values)
    method = build.create_method(config, 2, IMAGENET, 40)
    return config, method, load_init(config, method, IMAGENET)


@pytest.mark.parametrize("checkpoint", ["", "checkpoints/step-2.pt", "a copy"])
def test_the_first_weights_are_those_of_the_source_to_the_bit(
    source: Path, checkpoint: str, tmp_path: Path
) -> None:
    """So step 0 scores what the source scored; the momentum copy has them, the head is new."""
    named = source / checkpoint
    values: dict[str, Any] = {}
    if checkpoint == "a copy":
        named = tmp_path / "weights.pt"
        shutil.copy(source / "checkpoints" / "step-2.pt", named)
        shown = to_dict(build.load_run(source)[0])
        values = {"backbone": shown["backbone"], "backbone_args": ("width=6",)}
    config, method, (line,) = started(named, **values)
    assert config.backbone.endswith("mine.py:Encoder") and config.backbone_args == ("width=6",)
    state = build.load_run(source)[1]["method"]
    online, momentum = method.encoders()
    for key, value in online.state_dict().items():
        assert value.equal(state[f"backbone.{key}"]), key
        assert value.equal(momentum.state_dict()[key]), key
    fresh = build.create_method(dataclasses.replace(config, init=None), 2, IMAGENET, 40)
    assert all(
        a.equal(b) for a, b in zip(method.head.parameters(), fresh.head.parameters(), strict=True)
    )
    assert line.startswith("--init: loaded 6 of 6 tensors from ")
    assert "step 2, online encoder (unmix layout); new: head" in line and str(named) in line

    other = dataclasses.replace(IMAGENET, mean=(0.5, 0.5, 0.5))
    note = load_init(config, method, other)[1]
    assert "trained on images normalized by mean 0.485 0.456 0.406" in note
    assert "this run normalizes by mean 0.5 0.5 0.5" in note
    assert "--mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 takes theirs" in note


def test_a_run_starts_once_and_goes_on_without_its_source(
    source: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--init-warmup: the head alone at first. A resume loads nothing again."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    flags = ("--method", "simclr", *TINY[2:], *SMALL["simclr"], "--data", f"folder:{toy / 'train'}")
    run = (*flags, "--output", str(tmp_path), "--name", "next", "--init", str(copy))
    run = (*run, "--init-warmup", "1", "--checkpoint-every", "1", "--keep-checkpoints", "9")
    run_train(*run, "--limit-steps", "2")
    assert capsys.readouterr().out.count("--init: loaded 6 of 6") == 1
    shutil.rmtree(copy)
    assert run_train("--resume", str(tmp_path / "next"), "--limit-steps", "3") == 0
    assert "--init" not in capsys.readouterr().out
    assert [line["step"] for line in lines(tmp_path / "next")] == [1, 2, 3]

    def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
        return torch.load(run / f"checkpoints/step-{step}.pt", weights_only=True)["method"]

    first = weights(source, 2)
    steps = [weights(tmp_path / "next", step) for step in (1, 2, 3)]
    for key in ("backbone.model.0.weight", "backbone.model.1.bias"):
        assert [step[key].equal(first[key]) for step in steps] == [True, True, False]
    assert not steps[0]["head.0.weight"].equal(steps[1]["head.0.weight"])


def test_a_plan_says_what_would_load(
    source: Path, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--method", "simclr", *TINY[2:], *SMALL["simclr"], "--data", f"folder:{toy / 'train'}")
    assert run_train(*words, "--init", str(source), "--dry-run") == 0
    assert "--init: loaded 6 of 6" in capsys.readouterr().out


def test_what_is_no_source_is_refused_before_any_work(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for init, text in (
        ("nowhere.pth", r"--init nowhere.pth: there is no such file or run; give timm:NAME.TAG"),
        ("resnet18.a1_in1k", "did you mean timm:resnet18.a1_in1k"),
        ("someone/model", "did you mean hf-hub:someone/model"),
        (str(tmp_path / "empty"), "neither a run's config.yaml"),
    ):
        with pytest.raises(ValueError, match=text):
            settings(init=init)
    with pytest.raises(ValueError, match="of a resnet18, not of --backbone resnet50"):
        settings(init="timm:resnet18.a1_in1k", backbone="resnet50")
    with pytest.raises(ValueError, match="not of --backbone resnet50"):
        settings(init=str(source), backbone="resnet50")
    with pytest.raises(ValueError, match="--init-warmup needs --init"):
        Config(init_warmup=1)
    (tmp_path / "odd.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"^--init .*odd.pth: "):
        started(tmp_path / "odd.pth", backbone="test_resnet")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"known layout \(.*MoCo v3.*its keys are epoch"):
        started(tmp_path / "none.pth", backbone="test_resnet")


def test_the_source_names_the_backbone() -> None:
    assert settings(init="timm:resnet18.a1_in1k").backbone == "resnet18"
    assert settings(init="timm:resnet18", backbone="resnet18").init == "timm:resnet18"
    assert named_backbone("auto", "auto", (), "timm:vit_tiny_patch16_224") == (
        "vit_tiny_patch16_224", "auto", (),
    )  # fmt: skip


def test_a_run_names_its_stem(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for stem, size, found in (
        ("auto", 32, "small"),
        ("auto", 96, "standard"),
        ("small", 96, "small"),
    ):
        (tmp_path / "config.yaml").write_text(
            f"backbone: resnet18\nstem: {stem}\nimage_size: {size}\n"
        )
        assert start_of(str(tmp_path)).stem == found
        assert settings(init=str(tmp_path)).stem == found
        assert settings(init=str(tmp_path), stem="small-pool").stem == "small-pool"


def test_tags_of_weights_are_not_ignored() -> None:
    with pytest.raises(ValueError, match=r"--init timm:resnet50\.a1_in1k starts from them"):
        check_backbone_name("resnet50.a1_in1k", resuming=False)
    check_backbone_name("resnet50.a1_in1k", resuming=True)
    check_backbone_name("hf-hub:timm/resnet50.a1_in1k", resuming=False)
    with pytest.raises(ValueError, match=r"no file absent\.py"):
        check_backbone_name("absent.py:Encoder", resuming=False)


def test_a_hub_model_becomes_timms_name_of_it(tmp_path: Path) -> None:
    """The run then needs the hub's files no more."""
    save_for_hf(timm.create_model("test_vit", num_classes=4, depth=2), tmp_path, {"depth": 2})
    for values in ({"backbone": f"local-dir:{tmp_path}"}, {"init": str(tmp_path)}):
        config = name_architecture(Config(**values))
        assert config.backbone == "test_vit" and "depth=2" in config.backbone_args
        assert not any(
            word.startswith(("img_size", "num_classes")) for word in config.backbone_args
        )
    assert read(str(tmp_path)).state["pos_embed"].ndim == 3
    with pytest.raises(ValueError, match=r"--backbone local-dir:.* no timm model"):
        name_architecture(Config(backbone=f"local-dir:{tmp_path / 'absent'}"))


def test_weights_that_timm_lacks_are_refused_by_the_flag_that_names_them() -> None:
    for name, text in (("resnet8x", "closest"), ("resnet18.x", "it has .*a1_in1k")):
        with pytest.raises(ValueError, match=f"^--init timm:{name}: timm has no .*{text}"):
            name_architecture(Config(init=f"timm:{name}"))
    assert name_architecture(Config(init="timm:resnet18")).backbone == "auto"


def test_arguments_of_the_backbone() -> None:
    words = ("drop_path_rate=0.1", "qkv_bias=false", "name=x", "size=[8, 8]", "none=null")
    assert arguments(words) == {
        "drop_path_rate": 0.1, "qkv_bias": False, "name": "x", "size": [8, 8], "none": None,
    }  # fmt: skip
    for word, text in (
        ("drop_path_rate", "must be NAME=VALUE"),
        ("num_classes=3", "is set by unmix"),
        ("a=[1", "is not YAML"),
    ):
        with pytest.raises(ValueError, match=f"--backbone-args .*{text}"):
            Config(backbone_args=(word,))
    config = settings(backbone="test_resnet", backbone_args=("drop_path_rate=0.25",))
    assert config.backbone_args == from_saved(to_dict(config), "a run").backbone_args
    with pytest.raises(ValueError, match=r"--backbone-args.*foo.*; it takes .*drop_path_rate"):
        build.create_method(dataclasses.replace(config, backbone_args=("foo=1",)), 2, IMAGENET, 40)


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ({"views": "byol"}, {}),
        ({"method": "swav", "views": "swav"}, {96: "--views swav"}),
        ({"method": "dino", "crops": (2, 3), "crop_sizes": (224, 80),
          "crop_scales": (0.1, 1.0, 0.1, 0.2)}, {80: "--crop-sizes"}),
        ({"multi_scale": (192, 224)}, {192: "--multi-scale"}),
        ({"resolution_schedule": "160:224", "epochs": 3},
         {160: "--resolution-schedule", 192: "--resolution-schedule"}),
        ({"method": "moco", "resolutions": (224, 160)}, {160: "--resolutions"}),
    ],
)  # fmt: skip
def test_every_side_of_a_view_has_its_flag(values: dict[str, Any], more: dict[int, str]) -> None:
    config = settings(**({"method": "simclr", "backbone": "resnet18"} | values))
    assert sides_of(config, 10) == {224: "--image-size 224"} | more


def test_a_side_of_a_later_epoch_is_refused_before_the_first_step(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--method", "simclr", "--data", f"folder:{toy / 'train'}", "--backbone", "test_vit")
    flags += ("--resolution-schedule", "16:24", "--image-size", "32", "--batch-size", "16")
    flags += ("--groups", "4", "--epochs", "3", "--output", str(tmp_path))
    assert run_train(*flags) == 2
    said = capsys.readouterr().err
    assert "--backbone test_vit cannot take views of 20 pixels (--resolution-schedule)" in said
    assert not list(tmp_path.iterdir())


CONVOLUTIONAL = ("resnet", "convnext", "efficientnet", "regnet", "densenet", "vgg", "mobilenetv3")
CONVOLUTIONAL += ("byobnet", "resnetv2", "dla", "dpn", "hrnet", "inception_v3", "res2net", "nfnet")
TRANSFORMERS = ("vision_transformer", "deit", "beit", "cait", "swin_transformer", "xcit", "eva")
TRANSFORMERS += ("swin_transformer_v2", "pvt_v2", "twins", "volo", "maxxvit", "levit", "hiera")


def test_transformers_are_known_by_name() -> None:
    for modules, expected in ((CONVOLUTIONAL, False), (TRANSFORMERS, True)):
        for module in modules:
            for name in timm.list_models(module=module):
                assert is_transformer(name) is expected, name
                assert is_resnet(name) is (module == "resnet"), name
    assert is_plain_vit("vit_small_patch16_224") and not is_plain_vit("vit_base_r50_s16_224")


@pytest.mark.parametrize("method", METHODS)
def test_transformers_get_adamw_and_resnets_what_they_had(method: str) -> None:
    published = METHODS[method].settings.defaults
    given = Config(method=method, backbone="resnet50")
    before = settings(**vars(given))
    assert (before.optimizer, before.weight_decay) == (published.optimizer, published.weight_decay)
    assert before.lr == published.lr_per_256 and not before.freeze_patch_embed
    assert before.warmup_epochs == published.warmup_epochs
    assert describe_defaults(given, before) == []

    given = Config(method=method, backbone="vit_small_patch16_224")
    vit = settings(**vars(given))
    warmup = 40 if method == "moco-v3" else 10
    expected = (5e-4, 0.04, 10) if method == "dino" else (1.5e-4, 0.1, warmup)
    assert vit.optimizer == "adamw"
    assert (vit.lr, vit.weight_decay, vit.warmup_epochs) == expected
    assert vit.freeze_patch_embed is (method == "moco-v3")
    (line,) = describe_defaults(given, vit)
    assert "is a transformer" in line and "--optimizer adamw" in line

    own = {"optimizer": "lars", "lr": 1.0, "weight_decay": 0.0, "warmup_epochs": 1.0}
    given = dataclasses.replace(given, **own)
    assert describe_defaults(given, settings(**vars(given))) == []
    assert settings(**vars(given)).optimizer == "lars"


def test_a_saved_run_of_a_vit_keeps_its_patch_embedding_free() -> None:
    config = settings(method="moco-v3", backbone="vit_small_patch16_224")
    old = {k: v for k, v in to_dict(config).items() if k != "freeze_patch_embed"}
    assert resolved(from_saved(old, "a run")).freeze_patch_embed is False


def test_the_patch_embedding_is_frozen() -> None:
    vit: dict[str, Any] = {"backbone": "vit_tiny_patch16_224", "backbone_args": ("depth=1",)}
    small = {"image_size": 32, "batch_size": 16, "moco_v3": MocoV3Config(dim=16, hidden=32)}
    for chosen, frozen in ((None, True), (False, False)):
        config = settings(method="moco-v3", freeze_patch_embed=chosen, **vit, **small)
        method = build.create_method(config, 2, IMAGENET, 40)
        held = {k for k, p in method.backbone.named_parameters() if not p.requires_grad}
        assert held == ({"patch_embed.proj.weight", "patch_embed.proj.bias"} if frozen else set())
    config = dataclasses.replace(
        config, backbone="test_resnet", backbone_args=(), freeze_patch_embed=True
    )
    with pytest.raises(ValueError, match="--freeze-patch-embed: test_resnet has no patch"):
        build.create_method(config, 2, IMAGENET, 40)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_layer_decay_is_timms_with_our_head_for_its_classifier(name: str) -> None:
    with torch.device("meta"):
        whole, backbone = timm.create_model(name), timm.create_model(name, num_classes=0)
    groups = timm.optim.param_groups_layer_decay(whole, layer_decay=0.75)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    expected = {key: scale[id(p)] for key, p in whole.named_parameters()}
    shares = layer_shares(backbone, 0.75)
    for key, parameter in backbone.named_parameters():
        assert shares[id(parameter)] == pytest.approx(expected[key], rel=1e-12), key
    assert len(set(shares.values())) > 2
    with pytest.raises(ValueError, match=r"--layer-decay 0\.5: Linear has no method group_matcher"):
        layer_shares(nn.Linear(2, 2), 0.5)

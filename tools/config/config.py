"""The settings of a run: one frozen dataclass, from which the command line and its help derive.

Order of precedence: flags, then ``--recipe FILE``, then the defaults below. ``None`` means
"whatever the method or the data set was published with"; ``tools.config.resolve`` fills it in.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tyro.conf import DisallowNone

from models.methods import METHODS
from models.modules.backbone import Stem, StemInit
from models.multi_resolution import Reduce
from pipelines.decoders import Interpolation, OnBadImage
from pipelines.mixtures.image_mixture import LABEL_FREE, ImConfig
from pipelines.mixtures.registry import MixName
from pipelines.resolution import parse_schedule
from tools.config.clim import ClimConfig
from tools.config.ranges import METHOD_RANGES, MIX_RANGES, RANGES, check

T = TypeVar("T")
if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]
PresetName = Literal[
    "moco-v1", "moco-v2", "simclr", "byol", "swav", "cifar", "swav-cifar", "whitening",
    "cmc", "insdis", "moco-v3", "dino", "simsiam-cifar",
]  # fmt: skip


def free(default: Any) -> Any:
    """Declare a field that a resumed run may change; all others are its identity."""
    return field(default=default, metadata={"free": True})


def once(default: Any) -> Any:
    """Declare a field that belongs to one invocation: it is not saved with the settings."""
    return field(default=default, metadata={"free": True, "once": True})


def numbers_of(method: str) -> str:
    """Return the name of the field that holds a method's numbers."""
    return method.replace("-", "_")


def with_numbers(cls: type[T]) -> type[T]:
    """Add a field for the numbers of each of ``METHODS``, where alone a method is registered."""
    for name, (_, numbers) in METHODS.items():
        setattr(cls, numbers_of(name), numbers())
        cls.__annotations__[numbers_of(name)] = numbers
    return cls


@dataclass(frozen=True)
@with_numbers
class Config:
    """Learn an image representation without labels."""

    method: MethodName = "swav"
    """What is learnt from the views."""
    mix: MixName = "none"
    """Un-Mix's global, region, unmix; CLIM's clim; others change pixels only: docs/mixtures.md."""
    data: str = free("photos")
    """Images: photos | cifar10 | cifar100 | stl10 | tiny-imagenet | folder:PATH | PATH.beton"""
    recipe: Path | None = once(None)
    """YAML file of settings; flags override it."""
    name: str | None = once(None)
    """Folder of the run below --output; None: METHOD-MIX-DATA, numbered when taken."""
    output: Path = free(Path("runs"))
    """Where run folders go."""
    resume: str | None = once(None)
    """auto: continue the newest checkpoint of --name, if any; PATH: that run, with its settings."""
    seed: int = 0
    """Key of every random number."""

    # data
    val_data: str | None = free(None)
    """Labelled images for kNN, as --data, or 'none'; None: what belongs to --data."""
    data_dir: Path = free(Path("data"))
    """Where published data sets lie or are downloaded to."""
    classes: Path | None = None
    """File of class names to keep, one a line (ImageNet-100)."""
    subset: float | None = None
    """Training images of each class: up to 1 a share (1: all), above 1 a number; None: all."""
    subset_seed: int = 0
    """Key of the choice of --subset; it does not depend on --seed."""
    loader: Literal["auto", "memory", "ffcv", "dali"] = free("auto")
    """What decodes (auto: memory if the set fits, ffcv for .beton, dali for folders on a GPU)."""
    workers: int | None = free(None)
    """Decoding threads of each process; None: its share of the cores."""
    prefetch: int = free(3)
    """Batches that are made ahead of the step (0: none, the step waits for each)."""
    dali_device_memory_padding: float | None = free(None)
    """MiB of GPU memory that each thread of DALI's GPU decoder takes ahead; None: DALI's 16."""
    dali_host_memory_padding: float | None = free(None)
    """MiB of page-locked host memory it takes ahead, twice for each thread; None: DALI's 8."""
    dali_hw_decoder_load: float | None = free(None)
    """Share of the JPEGs, 0 to 1, for the GPU's own JPEG engine, if any; None: DALI's 0.65."""
    memory_budget: float = free(4.0)
    """GiB that --loader auto may spend on a decoded data set."""
    on_bad_image: OnBadImage = "stop"
    """An image that cannot be read stops the run, or the next row takes its place."""
    order: Literal["random", "blocks"] = "random"
    """Shuffle row by row, or by blocks that are read in one piece (data that exceeds memory)."""
    block_rows: int = 64
    """Neighbouring rows in a block of --order blocks."""
    window_blocks: int = 32
    """Blocks whose rows --order blocks mixes at a time, for each of --groups."""
    read_ahead: int = free(8)
    """Steps whose images the system is asked to read while an earlier one is decoded (0: none)."""
    interpolation: Interpolation = "antialias"
    """Filter of the resize: antialias is PIL's, bicubic BYOL's and W-MSE's."""
    views: PresetName | None = None
    """Published augmentation; None: the method's, for this image size."""
    image_size: int | None = None
    """Side of the large views in pixels; None: the data set's."""
    resolution_schedule: str | None = None
    """Side of the largest views, growing over the epochs by 32 pixels (4 below 96), as 160:224."""
    multi_scale: tuple[int, ...] = ()
    """Sides of the largest views, one drawn for each step, as 160 192 224."""
    resolutions: tuple[int, ...] = ()
    """Sides at which each query is shown, keys at the first alone, as 224 160 (moco, moco-v3)."""
    resolution_reduce: Reduce = "mean"
    """Terms of several --resolutions: their mean, or half their sum."""
    crops: tuple[int, ...] = ()
    """Number of views of each size, as 2 6; none: the preset's."""
    crop_sizes: tuple[int, ...] = ()
    """Their sides in pixels, as 224 96."""
    crop_scales: tuple[float, ...] = ()
    """Their smallest and largest share of the area, pairwise, as 0.14 1 0.05 0.14."""

    # mixture
    mix_prob: float = 0.5
    """Share of global steps in --mix unmix."""
    mix_beta: float = 1.0
    """Beta(b, b) draws the share."""
    mix_draw: Literal["step", "group"] = "step"
    """One mixture a step, or one for each group in which rows are mixed."""
    groups: int = 8
    """Groups of a batch, in each of which group BN counts: published GPU count."""
    mix_groups: int | None = None
    """Groups in each of which rows are mixed (1: the whole batch); None: as many as --groups."""

    clim: ClimConfig = ClimConfig()
    im: ImConfig = ImConfig()

    # model
    backbone: str = "auto"
    """Any timm model (auto: resnet18 up to 96 pixels, else resnet50; resnet10t for photos)."""
    stem: Stem = "auto"
    """ResNet's first layers (auto: small, 3x3 at stride 1 without pooling, up to 64 pixels;
    small-pool keeps the pooling)."""
    stem_init: StemInit = "he"
    """First weights of a small stem's 3x3 convolution: He's (fan out), or PyTorch's default."""
    zero_init_last: DisallowNone[bool | None] = None
    """Start each residual block as the identity: its last batch norm's weights are 0.
    None: as the method's released code, on images above 64 pixels; on smaller ones, off."""
    bn: Literal["group", "sync"] | None = None
    """Batch statistics of each group, or of the whole batch; None: the method's."""

    # optimisation
    epochs: int = free(100)
    """Passes over the data; sets the schedule's length."""
    batch_size: int = 256
    """Images per step over all processes."""
    accumulate: int = free(1)
    """Micro-batches in which a process computes its share of a batch, to save memory."""
    accumulate_inexact: bool = free(False)
    """Allow --accumulate where a loss looks across the batch: it then sees micro-batches alone."""
    optimizer: str | None = None
    """Any timm optimiser; SGD without Nesterov is 'momentum'; None: the method's."""
    lr: float | None = None
    """Peak learning rate for the whole batch; None: the method's per 256 images, scaled."""
    final_lr: float | None = None
    """Learning rate at the end of the cosine; None: the method's share of the peak."""
    warmup_epochs: float | None = None
    """Epochs of linear warm-up from 0; None: the method's."""
    schedule: Literal["cosine", "step", "constant"] | None = None
    """Course of the learning rate after the warm-up; None: the method's."""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """Shares of the run at which --schedule step multiplies the rate by --step-factor."""
    step_factor: float = 0.1
    """Factor of each such drop."""
    weight_decay: float | None = None
    """Weight decay; None: the method's."""
    decay: Literal["all", "weights"] | None = None
    """What decays, and LARS adapts: all, or no biases and norms; None: the method's."""
    momentum: float | None = None
    """Momentum of SGD and LARS; None: the method's."""
    clip_grad: float = 0.0
    """Largest norm of the gradient, a longer one is scaled down to it (0: any)."""
    clip_grad_each: bool = False
    """Hold each parameter's gradient to --clip-grad by itself, as DINO's code does."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """Mixed precision; None: what accelerate was configured with."""
    compile: bool = free(False)
    """Compile the backbone with torch.compile; anew when views change their side."""
    channels_last: bool = free(True)
    """Keep images and weights in NHWC memory."""

    # faults
    on_nan: Literal["stop", "rollback"] = free("stop")
    """A loss that is not finite ends the run, or undoes it to a checkpoint, to skip the step."""
    check_ranks: int = free(0)
    """Steps between comparisons of all weights and buffers of the processes (0: none)."""

    # records
    keep_checkpoints: int = free(2)
    """Newest checkpoints that stay."""
    log_every: int = free(50)
    """Steps between log lines, the only points at which the host waits for the device."""
    keep_every_epochs: int = free(0)
    """Besides, the checkpoint at the end of each so many epochs stays (0: none)."""
    checkpoint_every: int = free(1000)
    """Steps between checkpoints; one more is written at the end."""
    checkpoint_minutes: float = free(30.0)
    """Besides, one at the first log line after so many minutes (0: none)."""
    knn_every: int = free(10)
    """Epochs between kNN scores, the first before training (0: never)."""
    log_with: tuple[Literal["tensorboard", "wandb"], ...] = free(("tensorboard",))
    """Accelerate's trackers beside metrics.jsonl."""
    report: bool = free(True)
    """Write report.html when the run is done (tools/report.py writes it at any time)."""
    timeout_minutes: float = free(10.0)
    """How long processes wait for one another in a step before the run ends."""
    limit_steps: int | None = once(None)
    """Stop after this many steps of the run; the schedule is not shortened."""
    dry_run: bool = once(False)
    """Print the resolved settings, the steps and the memory, and stop."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            check(flag(name), getattr(self, name), low, high)
        for name, value in dataclasses.asdict(self.chosen).items():
            if name in METHOD_RANGES:
                check(flag(f"{self.method}.{name}"), value, *METHOD_RANGES[name])
        for owner, ranges in MIX_RANGES.items():
            for name, (low, high) in ranges.items():
                check(flag(f"{owner}.{name}"), getattr(getattr(self, owner), name), low, high)
        if self.subset is not None and self.subset > 1 and self.subset % 1:
            raise ValueError(
                f"--subset {self.subset:g} must be a share up to 1, or a whole number of images"
            )
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"--milestones {self.milestones} must rise")
        if any(low > high for low, high in zip(*[iter(self.crop_scales)] * 2, strict=False)):
            raise ValueError(
                f"--crop-scales {self.crop_scales}: each pair is the least and the most"
            )
        if sum(map(bool, (self.resolution_schedule, self.multi_scale, self.resolutions))) > 1:
            raise ValueError(
                "--resolution-schedule, --multi-scale and --resolutions exclude each other"
            )
        if self.clip_grad_each and not self.clip_grad:
            raise ValueError("--clip-grad-each needs --clip-grad NORM")
        if self.resolution_schedule is not None:
            parse_schedule(self.resolution_schedule)
        if self.resolutions and self.image_size not in (None, self.resolutions[0]):
            raise ValueError(
                f"--image-size {self.image_size} is not the first of --resolutions "
                f"{' '.join(map(str, self.resolutions))}"
            )
        if self.name and (Path(self.name).name != self.name or self.name == ".."):
            raise ValueError(f"--name {self.name} must be one folder's name; --output says where")
        counts = (len(self.crops), len(self.crop_sizes), len(self.crop_scales) / 2)
        if len(set(counts)) > 1:
            raise ValueError(
                "--crops, --crop-sizes and --crop-scales go together: as many sizes as counts, "
                "and two scales for each"
            )

    @property
    def mixing_groups(self) -> int:
        """The number of groups in each of which rows are mixed."""
        return self.mix_groups or self.groups

    @property
    def chosen(self) -> Any:
        """The numbers of the chosen method, a dataclass."""
        return getattr(self, numbers_of(self.method))


MIX_NUMBERS: dict[str, str] = {"clim": "clim", **dict.fromkeys(LABEL_FREE, "im")}
"""Mixtures with numbers of their own, and the names of the fields that hold them."""


def flag(name: str) -> str:
    """Return a field's flag."""
    return "--" + name.replace("_", "-")

"""The settings of a run by subject; each field has its flag, default, range and help.

``tools.config.config`` joins the sections. ``None`` means "whatever the method or the data set was
published with"; ``tools.config.resolve`` fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import DisallowNone

from models.methods import METHODS
from models.settings.base import BnMode, MixTerms, Reduce, Schedule, Stem, StemInit
from pipelines.presets import PRESETS
from pipelines.ranges import Count, Key, NonNegative, Positive, Range, Share, WholeNumber
from pipelines.resolution import parse_schedule
from pipelines.settings import DevicePaths, Interpolation, OnBadImage, parts_of
from tools.config.augment import check_crops
from tools.config.images import ImageConfig
from tools.config.init import InitConfig
from tools.config.pixels import PixelConfig
from tools.config.remote import RemoteConfig
from tools.config.scores import ScoreConfig
from tools.config.section import Section, free, once
from tools.config.shards import ShardConfig
from tools.config.trackers import TrackerConfig, TrackerName

if TYPE_CHECKING:
    MethodName = str
    PresetName = str
else:
    MethodName = Literal[tuple(METHODS)]
    PresetName = Literal[tuple(PRESETS)]
Precision = Literal["no", "bf16", "fp16"]
Decay = Literal["all", "weights"]


@dataclass(frozen=True)
class RunConfig(Section):
    """What is trained, and where the run is kept."""

    title = "run"
    method: MethodName = "swav"
    """Self-supervised method."""
    mix: str = "none"
    """Mixture, or a sum as unmix+mixmask; the names are in docs/mixtures.md."""
    data: str = free("photos")
    """Images to train on: photos, folder:PATH, list:FILE, PATH.beton, wds:PATTERN; or several."""
    recipe: Path | None = once(None)
    """YAML file of settings, or a name in recipes/, such as photos; flags override it."""
    name: str | None = once(None)
    """Name of the run's folder in --output; None: METHOD-MIX-DATA, numbered if that is taken."""
    output: Path = free(Path("runs"))
    """Folder that holds the folders of all runs."""
    resume: str | None = once(None)
    """auto: continue --name's newest checkpoint, if any; PATH: that run, with its settings."""
    seed: Key = 0
    """Seed of all random numbers."""
    limit_steps: Count | None = once(None)
    """Stop after this many steps of the run; the schedule keeps its length."""
    dry_run: bool = once(False)
    """Print the resolved settings, the number of steps and the memory estimate, then exit."""

    def check(self) -> None:
        """Refuse an unknown mixture, and a name that is a path."""
        parts_of(self.mix)
        if self.name and (Path(self.name).name != self.name or self.name == ".."):
            raise ValueError(f"--name {self.name} must be one folder's name; --output says where")


@dataclass(frozen=True)
class DataConfig(Section):
    """Which images are read, in which order, and how."""

    title = "data"
    val_data: str | None = free(None)
    """Labelled images for kNN, as --data, or 'none'; None: the validation split of --data."""
    data_dir: Path = free(Path("data"))
    """Folder of the published data sets; missing ones are downloaded to it."""
    classes: Path | None = None
    """File of class names to keep, one a line (ImageNet-100)."""
    subset: Positive | None = None
    """Training images of each class: a fraction up to 1, or a number above 1; None: all."""
    subset_seed: Key = 0
    """Seed of the choice of --subset and --val-fraction; independent of --seed."""
    val_fraction: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    """Share of each class's images that is scored instead of trained on; None: --val-data."""
    loader: Literal["auto", "memory", "ffcv", "dali"] = free("auto")
    """Decoder (auto: memory if the set fits, ffcv for .beton, dali for folders on a GPU)."""
    workers: Count | None = free(None)
    """Decoding threads of each process; None: its share of the cores."""
    prefetch: WholeNumber = free(3)
    """Batches prepared ahead of the step (0: none, so that each step waits for its batch)."""
    dali_device_memory_padding: NonNegative | None = free(None)
    """MiB of GPU memory reserved for each thread of DALI's GPU decoder; None: DALI's 16."""
    dali_host_memory_padding: NonNegative | None = free(None)
    """MiB of page-locked host memory reserved for it, twice for each thread; None: DALI's 8."""
    dali_hw_decoder_load: Share | None = free(None)
    """Share of the JPEGs decoded by the GPU's JPEG engine, if it has one; None: DALI's 0.65."""
    memory_budget: NonNegative = free(4.0)
    """GiB that --loader auto may use for a decoded data set."""
    on_bad_image: OnBadImage = "stop"
    """Unreadable image: stop the run, or replace the image by the next row."""
    order: Literal["random", "blocks"] = "random"
    """Shuffle rows, or blocks of rows that are read in one piece (data larger than memory)."""
    block_rows: Count = 64
    """Consecutive rows in a block of --order blocks."""
    window_blocks: Count = 32
    """Blocks whose rows --order blocks shuffles together, for each of --groups."""
    balance: str | None = None
    """Draw rows by weight: 'class' (all classes alike), or a FILE of weights; None: each once."""
    data_weights: tuple[NonNegative, ...] = ()
    """Weight of each of several --data, its share of the batches; empty: each image once."""
    read_ahead: WholeNumber = free(8)
    """Steps whose files the system is asked to read in advance (0: none)."""
    interpolation: Interpolation = "antialias"
    """Filter of the resize: antialias is PIL's; bicubic is that of BYOL and W-MSE."""

    def check(self) -> None:
        """Refuse a number of images that is no whole one, and two orders of the rows."""
        if self.balance is not None and self.order == "blocks":
            raise ValueError(f"--balance {self.balance} draws single rows: it needs --order random")
        if self.subset is not None and self.subset > 1 and self.subset % 1:
            raise ValueError(
                f"--subset {self.subset:g} must be a share up to 1, or a whole number of images"
            )


@dataclass(frozen=True)
class ViewConfig(Section):
    """Random views: their augmentation, number and size."""

    title = "views"
    views: PresetName | None = None
    """Published augmentation; None: the method's, for the size of the images."""
    image_size: Count | None = None
    """Side of the largest views in pixels; None: the data set's."""
    resolution_schedule: str | None = None
    """FIRST:LAST side of the largest views, growing by 32 pixels (4 below 96), as 160:224."""
    multi_scale: tuple[Count, ...] = ()
    """Sides of the largest views; each step draws one, as 160 192 224."""
    resolutions: tuple[Count, ...] = ()
    """Sides at which each query is shown; keys have the first alone, as 224 160 (moco, moco-v3)."""
    resolution_reduce: Reduce = "mean"
    """How the losses of several --resolutions are combined: their mean, or half their sum."""
    crops: tuple[Count, ...] = ()
    """Views of each size, as 2 6 (alone: SwAV's sizes and scales); empty: the preset's."""
    crop_sizes: tuple[Count, ...] = ()
    """Sides of the --crops in pixels, as 224 96."""
    crop_scales: tuple[Annotated[float, Range(0, 1, above=True)], ...] = ()
    """Smallest and largest share of the area for each of the --crops, as 0.14 1 0.05 0.14."""

    def check(self) -> None:
        """Refuse sizes that exclude each other, and crops without sizes and scales."""
        if sum(map(bool, (self.resolution_schedule, self.multi_scale, self.resolutions))) > 1:
            raise ValueError(
                "--resolution-schedule, --multi-scale and --resolutions exclude each other"
            )
        if self.resolution_schedule is not None:
            parse_schedule(self.resolution_schedule)
        if self.resolutions and self.image_size not in (None, self.resolutions[0]):
            raise ValueError(
                f"--image-size {self.image_size} is not the first of --resolutions "
                f"{' '.join(map(str, self.resolutions))}"
            )
        check_crops(self.crops, self.crop_sizes, self.crop_scales)


@dataclass(frozen=True)
class MixConfig(Section):
    """How Un-Mix's mixtures are drawn, and the groups of a batch."""

    title = "mixture"
    mix_prob: Share = 0.5
    """Probability that a step of --mix unmix mixes globally; otherwise it mixes a region."""
    mix_beta: Positive = 1.0
    """b of the Beta(b, b) distribution of the mixing ratio."""
    mix_draw: Literal["step", "group"] = "step"
    """Draw one mixture for each step, or one for each group of --mix-groups."""
    mix_terms: MixTerms | None = None
    """Add the mixture's loss to the clean one, or let it replace that; None: as published."""
    groups: Count = 8
    """Groups of a batch, the units of --bn group and of mixing: the published number of GPUs."""
    mix_groups: Count | None = None
    """Groups within which rows are mixed (1: the whole batch); None: as many as --groups."""

    @property
    def mixing_groups(self) -> int:
        """The number of groups in each of which rows are mixed."""
        return self.mix_groups or self.groups


@dataclass(frozen=True)
class ModelConfig(Section):
    """The backbone, and its batch norm."""

    title = "model"
    backbone: str = "auto"
    """timm model, hf-hub:ORG/NAME or FILE.py:CLASS; auto: --init's, or a ResNet for the size."""
    stem: Stem = "auto"
    """ResNet's first layers (small: 3x3, stride 1; small-pool: pooled; auto: small to 64 px)."""
    stem_init: StemInit = "he"
    """Initialization of a small stem's 3x3 convolution: He's (fan out), or PyTorch's default."""
    zero_init_last: DisallowNone[bool | None] = None
    """Start residual blocks as the identity; None: as the method's code, off up to 64 pixels."""
    bn: BnMode | None = None
    """Batch-norm statistics: of each group, or of the whole batch; None: the method's."""


@dataclass(frozen=True)
class OptimConfig(Section):
    """Optimizer, learning rate, and precision."""

    title = "optimization"
    epochs: Count = free(100)
    """Passes over the data; also the length of the schedule."""
    batch_size: Count = 256
    """Images in each step, over all processes."""
    accumulate: Count = free(1)
    """Micro-batches in which a process computes its share of a batch, to save memory."""
    accumulate_inexact: bool = free(False)
    """Allow --accumulate where a loss compares rows of the batch: it sees micro-batches only."""
    optimizer: str | None = None
    """Any timm optimizer ('momentum' is SGD without Nesterov); None: the method's."""
    lr: NonNegative | None = None
    """Peak learning rate for the whole batch; None: the method's per 256 images, scaled."""
    final_lr: NonNegative | None = None
    """Learning rate at the end of the cosine; None: the method's share of the peak."""
    warmup_epochs: NonNegative | None = None
    """Epochs of linear warm-up from 0; None: the method's."""
    schedule: Schedule | None = None
    """Learning-rate schedule after the warm-up; None: the method's."""
    milestones: tuple[Share, ...] = (0.6, 0.8)
    """Fractions of the run at which --schedule step multiplies the rate by --step-factor."""
    step_factor: Share = 0.1
    """Factor on the learning rate at each of the --milestones."""
    weight_decay: NonNegative | None = None
    """Weight decay; None: the method's."""
    weight_decay_end: NonNegative | None = None
    """Weight decay at the end of a cosine; None: the method's, or as --weight-decay if given."""
    decay: Decay | None = None
    """What decays, and LARS adapts: all, or no biases and norms; None: the method's."""
    momentum: Share | None = None
    """Momentum of SGD and LARS; None: the method's."""
    clip_grad: NonNegative = 0.0
    """Largest gradient norm; longer gradients are scaled down to it (0: no clipping)."""
    clip_grad_each: bool = False
    """Clip each parameter's gradient by itself, as in DINO's code."""
    precision: Precision | None = None
    """Mixed precision; None: that of accelerate's configuration."""
    compile: bool = free(False)
    """Compile the backbone with torch.compile; again for each size of the views, at most 64."""
    channels_last: bool = free(True)
    """Keep images and weights in NHWC memory format."""
    device_paths: DevicePaths = free("auto")
    """Our GPU code: auto: where it equals PyTorch here; plain: none; fused: or stop."""

    def check(self) -> None:
        """Refuse milestones out of order, and clipping without a norm."""
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"--milestones {self.milestones} must rise")
        if self.clip_grad_each and not self.clip_grad:
            raise ValueError("--clip-grad-each needs --clip-grad NORM")


@dataclass(frozen=True)
class FaultConfig(Section):
    """What happens when something goes wrong."""

    title = "faults"
    on_nan: Literal["stop", "rollback"] = free("stop")
    """Loss that is not finite: stop the run, or return to a checkpoint and skip the step."""
    check_ranks: WholeNumber = free(0)
    """Steps between comparisons of the weights and buffers of all processes (0: none)."""
    timeout_minutes: Annotated[float, Range(0, 100_000, above=True)] = free(10.0)
    """Minutes that processes wait for each other within a step before the run ends."""


@dataclass(frozen=True)
class LogConfig(Section):
    """Checkpoints, scores and logs."""

    title = "records"
    keep_checkpoints: Count = free(2)
    """Number of newest checkpoints to keep."""
    log_every: Count = free(50)
    """Steps between log lines; the host waits for the device only there."""
    keep_every_epochs: WholeNumber = free(0)
    """Also keep the checkpoint at the end of every this many epochs (0: none)."""
    checkpoint_every: Count = free(1000)
    """Steps between checkpoints; another is written at the end."""
    checkpoint_minutes: NonNegative = free(30.0)
    """Also checkpoint after this many minutes, at a log line; the first after 5 (0: never)."""
    knn_every: WholeNumber = free(10)
    """Epochs between kNN scores, the first before training (0: never)."""
    log_with: tuple[TrackerName, ...] = free(("tensorboard",))
    """Accelerate's trackers, in addition to metrics.jsonl."""
    report: bool = free(True)
    """Write report.html at the end of the run (tools/report.py writes it at any time)."""


SECTIONS: tuple[type[Section], ...] = (
    RunConfig,
    DataConfig,
    RemoteConfig,
    ImageConfig,
    PixelConfig,
    ShardConfig,
    ViewConfig,
    MixConfig,
    ModelConfig,
    InitConfig,
    OptimConfig,
    FaultConfig,
    LogConfig,
    ScoreConfig,
    TrackerConfig,
)
"""In the order of ``--help``."""

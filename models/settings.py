"""What the settings of a model can be: names, each method's numbers and published training.

Imports no torch, so that the command line answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pipelines.ranges import Count, NonNegative, Positive, Range, Share, WholeNumber

Stem = Literal["auto", "small", "small-pool", "standard"]
StemInit = Literal["he", "pytorch"]
SMALL_IMAGE = 64
"""Images up to this many pixels a side get the small stem under ``auto``."""
BnMode = Literal["group", "sync"]
Schedule = Literal["cosine", "step", "constant"]
Reduce = Literal["mean", "sum-half"]
"""How the terms of queries at several sides make one loss."""
ClimMode = Literal["add", "replace", "csml"]
Denominator = Literal["separate", "shared"]
Space = Literal["lab", "ycbcr"]


@dataclass(frozen=True)
class Defaults:
    """How a method's paper trains it; every number can be overridden by a flag."""

    optimizer: str
    """timm's name."""
    lr_per_256: float
    """Peak learning rate for each 256 images of the batch."""
    weight_decay: float
    views: str
    """Preset of the views."""
    bn: BnMode
    momentum: float = 0.9
    decay_norm_and_bias: bool = True
    schedule: Schedule = "cosine"
    warmup_epochs: int = 0
    final_lr_ratio: float = 0.0
    """Last learning rate as a share of the peak."""
    zero_init_last: bool = False
    """Whether each residual block starts as the identity, on images above 64 pixels."""


@dataclass(frozen=True)
class MethodConfig:
    """The numbers of a method."""


@dataclass(frozen=True)
class MocoConfig(MethodConfig):
    """Momentum contrast."""

    dim: Count = 128
    """Length of queries and keys."""
    queue: WholeNumber = 65536
    """Number of keys kept as negatives."""
    momentum: Share = 0.999
    """EMA momentum of the key encoder (CIFAR: 0.99)."""
    temperature: Positive = 0.2
    """Softmax temperature (v1: 0.07; CIFAR: 0.1)."""
    mlp: bool = True
    """Head with a hidden layer (v2); off: one linear layer (v1)."""
    symmetric: bool = False
    """Use each view as query and as key; the loss is the sum of both halves."""
    mix_each: bool = False
    """Symmetric: mix both views, for the other's keys; off: x0 alone, for its own keys as well."""


@dataclass(frozen=True)
class SimclrConfig(MethodConfig):
    """Contrast of each view with all others of the batch."""

    dim: Count = 128
    """Length of the projection."""
    hidden: WholeNumber = 0
    """Width of the head's hidden layer; 0: that of the backbone's features."""
    temperature: Positive = 0.1
    """Softmax temperature (CIFAR: 0.5)."""
    head_bn: bool = False
    """Batch norm after each of the head's linear layers, over both views of a pair at once."""
    last_bias: bool = True
    """Biases of the head's last linear layer and of the batch norm after it (ImageNet: off)."""


@dataclass(frozen=True)
class ByolConfig(MethodConfig):
    """Prediction of a slowly moving target network's projection."""

    dim: Count = 256
    """Length of the projection."""
    hidden: WholeNumber = 4096
    """Hidden width of projector and predictor."""
    momentum: Share = 0.996
    """EMA momentum of the target network at the first step; it rises to 1 along a cosine."""
    mix_online: bool = False
    """Send the mixture through the online branch only (twice the weight); off: through both."""
    last_bias: bool = False
    """Bias of the last linear layer of projector and predictor (the Whitening code: on)."""


@dataclass(frozen=True)
class SwavConfig(MethodConfig):
    """Prediction of one view's cluster code from the other views."""

    prototypes: Count = 3000
    """Number of clusters (CIFAR: 100)."""
    dim: Count = 128
    """Length of the projection."""
    hidden: WholeNumber = 2048
    """Width of the head's hidden layer (CIFAR: 512)."""
    temperature: Positive = 0.1
    """Softmax temperature of the predictions."""
    epsilon: Positive = 0.05
    """Sharpness of the codes; smaller is sharper."""
    iterations: Count = 3
    """Sinkhorn iterations."""
    queue: WholeNumber = 0
    """Earlier rows in the queue of each assignment view, to balance the codes; 0: no queue."""
    queue_start_epoch: WholeNumber = 15
    """First epoch, from 0, whose rows are queued."""
    freeze_steps: WholeNumber = 313
    """Steps at the start during which the prototypes are frozen."""
    reverse: Literal["paper", "code", "predict"] = "paper"
    """Mixtures: paper = the author's formula, code = the released code, predict = without codes."""
    chained_lam: bool = False
    """Draw each view's box from the share the last one left, which weighs all (released code)."""
    queue_mixtures: bool = False
    """Queue mixtures too, in both orders (released code; needs --swav.reverse code)."""


@dataclass(frozen=True)
class SimsiamConfig(MethodConfig):
    """Prediction of the other view's projection, which takes no gradient."""

    dim: Count = 2048
    """Width of the projector and length of the projection."""
    hidden: WholeNumber = 512
    """Hidden width of the predictor."""
    layers: Literal[2, 3] = 3
    """Linear layers of the projector (CIFAR: 2)."""
    constant_predictor_lr: bool = True
    """Keep the predictor's learning rate at the peak; off: it falls with the others'."""


@dataclass(frozen=True)
class BarlowConfig(MethodConfig):
    """Views whose dimensions correlate each with itself and with no other."""

    dim: Count = 8192
    """Length of the projection."""
    hidden: WholeNumber = 8192
    """Width of the projector's two hidden layers."""
    off_diagonal: NonNegative = 0.0051
    """Weight of the correlations between different dimensions."""
    bias_lr: NonNegative = 0.0015
    """Learning rate of biases and batch norm as a share of the weights' (.0048 / .2 / 16 GPUs)."""


@dataclass(frozen=True)
class VicregConfig(MethodConfig):
    """Equal views, of which every dimension varies and none follows another."""

    dim: Count = 8192
    """Length of the projection."""
    hidden: WholeNumber = 8192
    """Width of the projector's two hidden layers."""
    invariance: NonNegative = 25.0
    """Weight of the squared distance between the views."""
    variance: NonNegative = 25.0
    """Weight of the hinge on each dimension's standard deviation, the mean of the two views."""
    covariance: NonNegative = 1.0
    """Weight of the covariances between different dimensions."""


@dataclass(frozen=True)
class MocoV3Config(MethodConfig):
    """Momentum contrast among the keys of the batch, with a predictor and without a queue."""

    dim: Count = 256
    """Length of queries and keys."""
    hidden: WholeNumber = 4096
    """Hidden width of projector and predictor."""
    momentum: Share = 0.996
    """EMA momentum of the key encoder at the first step; it rises to 1 along a cosine."""
    temperature: Positive = 1.0
    """Softmax temperature."""
    last_bias: bool = False
    """Bias of the predictor's last linear layer (the released code has none)."""


@dataclass(frozen=True)
class DinoConfig(MethodConfig):
    """Prediction of a slow teacher's centred and sharpened assignment from the other views."""

    prototypes: Count = 65536
    """Length of the assignment."""
    dim: Count = 256
    """Length of the projection."""
    hidden: WholeNumber = 2048
    """Width of the head's two hidden layers."""
    head_bn: bool = False
    """Batch norm in the head."""
    temperature: Positive = 0.1
    """Softmax temperature of the student."""
    first_teacher_temperature: Positive = 0.04
    """Softmax temperature of the teacher at the first step."""
    teacher_temperature: Positive = 0.07
    """Softmax temperature of the teacher after its warm-up."""
    temperature_epochs: WholeNumber = 30
    """Epochs of the linear warm-up of the teacher's temperature."""
    momentum: Share = 0.996
    """EMA momentum of the teacher at the first step; it rises to 1 along a cosine."""
    centre_momentum: Share = 0.9
    """EMA momentum of the centre of the teacher's scores."""
    freeze_epochs: WholeNumber = 1
    """Epochs at the start during which the prototypes are frozen."""


@dataclass(frozen=True)
class WmseConfig(MethodConfig):
    """Agreement of whitened views."""

    dim: Count = 64
    """Length of the projection (images of 64 pixels and more: 128)."""
    hidden: WholeNumber = 1024
    """Width of the head's hidden layer."""
    sub_batch: Annotated[int, Range(2)] = 128
    """Rows whitened together: even, above dim (256 for 128), a divisor of --batch-size."""
    permutations: Count = 1
    """Draws of sub-batches a step, averaged over (STL-10, Tiny ImageNet: 4 with two views)."""


@dataclass(frozen=True)
class BankConfig(MethodConfig):
    """Numbers of a memory bank and its loss."""

    dim: Count = 128
    """Length of the embeddings."""
    negatives: Count = 16384
    """Rows of the bank drawn for each image, with replacement."""
    temperature: Positive = 0.07
    """Divisor of the cosines (STL-10: 0.1)."""
    momentum: Share = 0.5
    """EMA momentum of a row of the bank, at each visit of its image."""
    softmax: bool = False
    """Cross-entropy over the rows drawn, instead of noise-contrastive estimation."""

    @property
    def coupling(self) -> str:
        """How the loss depends on the other rows of a batch, in words; "" if it does not."""
        return "" if self.softmax else "in the first step NCE's constant is a micro-batch's"


@dataclass(frozen=True)
class CmcConfig(BankConfig):
    """Lightness and colour of an image, told from other images' by each other's memory bank."""

    space: Space = "lab"
    """Colour space: lab (L | ab) or ycbcr (Y | CbCr)."""
    width: Positive = 0.5
    """Width of each of the two ResNets as a share of --backbone's (published: 0.5, 1, 2)."""


@dataclass(frozen=True)
class InsdisConfig(BankConfig):
    """Each image told from the others by its row in a memory bank."""

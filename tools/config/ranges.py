"""Least and largest values of the settings that are numbers."""

from __future__ import annotations

import math

from tools.config.clim import RANGES as CLIM_RANGES

COUNTS = (
    *(
        "groups",
        "mix_groups",
        "epochs",
        "batch_size",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    ),
    *("workers", "image_size", "limit_steps", "crops", "crop_sizes"),
    *("multi_scale", "resolutions", "block_rows", "window_blocks", "accumulate"),
)
ABOVE_0 = math.ulp(0.0)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(COUNTS, (1, math.inf)),
    **dict.fromkeys(("seed", "subset_seed"), (0, 2**63 - 1)),
    "subset": (ABOVE_0, math.inf),
    "check_ranks": (0, math.inf),
    **dict.fromkeys(("knn_every", "memory_budget", "weight_decay"), (0, math.inf)),
    **dict.fromkeys(("prefetch", "read_ahead", "dali_device_memory_padding"), (0, math.inf)),
    "dali_host_memory_padding": (0, math.inf),
    "dali_hw_decoder_load": (0, 1),
    **dict.fromkeys(("lr", "final_lr", "warmup_epochs"), (0, math.inf)),
    **dict.fromkeys(("keep_every_epochs", "checkpoint_minutes"), (0, math.inf)),
    "timeout_minutes": (ABOVE_0, 100_000),
    "clip_grad": (0, math.inf),
    **dict.fromkeys(("mix_prob", "momentum", "milestones", "step_factor"), (0, 1)),
    "crop_scales": (ABOVE_0, 1),
    "mix_beta": (ABOVE_0, math.inf),
}
"""Least and largest value of the numbers among the settings, of each where there are several."""

METHOD_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("dim", "prototypes", "iterations"), (1, math.inf)),
    **dict.fromkeys(("permutations", "negatives"), (1, math.inf)),
    **dict.fromkeys(("sub_batch",), (2, math.inf)),
    **dict.fromkeys(("queue", "hidden", "queue_start_epoch", "freeze_steps"), (0, math.inf)),
    **dict.fromkeys(("temperature", "epsilon", "width"), (ABOVE_0, math.inf)),
    **dict.fromkeys(("freeze_epochs", "temperature_epochs"), (0, math.inf)),
    **dict.fromkeys(("bias_lr", "off_diagonal"), (0, math.inf)),
    **dict.fromkeys(("invariance", "variance", "covariance"), (0, math.inf)),
    **dict.fromkeys(("first_teacher_temperature", "teacher_temperature"), (ABOVE_0, math.inf)),
    **dict.fromkeys(("momentum", "centre_momentum"), (0, 1)),
}
"""The same for the methods' own numbers."""

MIX_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "clim": CLIM_RANGES,
    "im": {
        **dict.fromkeys(("g_num", "r_num", "r_beta", "r_pixel_decay"), (0, math.inf)),
        **dict.fromkeys(("g_prob", "r_prob", "mask_prob"), (0, 1)),
        "g_alpha": (ABOVE_0, math.inf),
        "mask_size": (1, math.inf),
    },
}
"""The same for the mixtures' own numbers."""


def check(name: str, value: float | tuple[float, ...] | None, low: float, high: float) -> None:
    """Refuse numbers outside ``low`` to ``high``, infinities and NaN; None passes.

    Raises:
        ValueError: naming the flag.
    """
    for number in value if isinstance(value, tuple) else () if value is None else (value,):
        if not low <= number <= high or math.isinf(number):
            least = "above 0" if low == ABOVE_0 else f"at least {low}"
            most = "" if math.isinf(high) else f" and at most {high}"
            raise ValueError(f"{name} must be {least}{most}, not {number}")

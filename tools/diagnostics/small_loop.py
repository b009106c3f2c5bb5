"""A training loop of a few seconds on the embedded photographs, taken apart."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from models.methods import METHODS, Method, build_method
from models.methods.base import Setup
from models.modules.backbone import create_backbone
from models.settings.moco import MocoConfig
from pipelines.batch import Batch
from pipelines.public import build_loader, open_data
from pipelines.public.options import LoaderOptions
from pipelines.step_maker import Decoded

DATA = "photos"
SIDE, GROUPS = 32, 8
ROWS, HOST_ROWS = 64, 16
"""Images of a batch, on a GPU and on the host, where more would take minutes on busy cores."""


class SmallLoop:
    """MoCo with Un-Mix on a ResNet-10 at 32 pixels: each stage of a step is a method."""

    def __init__(self, device: torch.device) -> None:
        data = open_data(DATA)
        rows = ROWS if device.type == "cuda" else HOST_ROWS
        options = LoaderOptions(loader="memory")
        self._loader = build_loader(
            data,
            "moco-v2",
            rows,
            size=SIDE,
            mixture="unmix",
            groups=GROUPS,
            device=device,
            options=options,
        ).loader
        self._method = _method(rows, data.facts.mean, data.facts.std, len(data.table)).to(device)
        self._method.to(memory_format=torch.channels_last)
        weights = [p for p in self._method.parameters() if p.requires_grad]
        self._optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9)

    def __enter__(self) -> SmallLoop:
        return self

    def __exit__(self, *exception: object) -> None:
        self._loader.maker.decoder.close()

    def decode(self, step: int) -> Decoded:
        """Decode a step."""
        return self._loader.maker.decode(step)

    def finish(self, decoded: Decoded) -> Batch:
        """Augment and mix a decoded step."""
        return self._loader.maker.finish(decoded)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of some steps, made ahead."""
        return self._loader.batches(start, stop)

    def learn(self, batch: Batch) -> None:
        """Make an optimization step."""
        terms = self._method(batch)
        torch.stack(list(terms.values())).sum().backward()
        self._method.after_backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._method.after_step(0.5)

    def step(self, number: int) -> Batch:
        """Make a whole step; return its batch."""
        batch = self.finish(self.decode(number))
        self.learn(batch)
        return batch


def _method(rows: int, mean: tuple[float, ...], std: tuple[float, ...], num_rows: int) -> Method:
    entry, settings = METHODS["moco"], MocoConfig(queue=1024, dim=32)
    create = partial(create_backbone, "resnet10t", SIDE, "standard")
    setup = Setup(
        bn="group",
        group_size=rows // GROUPS,
        batch_size=rows,
        seed=0,
        steps_per_epoch=1,
        num_rows=num_rows,
        mean=mean,
        std=std,
    )
    return build_method("moco", settings, entry.method.build_backbone(settings, create), setup)

"""An ONNX graph, for onnxruntime and other tools that read ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim
from torch.onnx import OnnxExporterError, ONNXProgram

from tools.exporting.source import Source
from tools.exporting.verify import largest_difference, quoted, run_example

SUFFIXES = (".onnx",)
OPSET = 18
"""Newest operator set that torch exports without conversion."""
PROVIDERS = '["CPUExecutionProvider"]'
OTHER_SIDE = 32
"""Pixels that are added to the side for the second test of a graph of free size."""


def check(source: Source) -> None:
    """Accept every network."""


def write(source: Source, path: Path) -> list[str]:
    """Write the graph, with free batch size and, if the network allows, free image size."""
    fixed = "img_size" in source.options
    notes, program = [], None
    if not fixed:
        try:
            program = _export(source, {0: Dim("batch"), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC})
        except OnnxExporterError:
            fixed = True
    if program is None:
        program = _export(source, {0: Dim("batch")})
    program.model.metadata_props.update(metadata(source))
    program.save(path, external_data=False)
    side = f"of {source.size} x {source.size} pixels" if fixed else "of any size"
    notes.append(f"ONNX opset {OPSET}; any number of images {side}.")
    return notes


def _export(source: Source, free: dict[int, Any]) -> ONNXProgram:
    program = torch.onnx.export(
        source.encoder,
        (source.images(2),),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=(free,),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program


def metadata(source: Source) -> dict[str, str]:
    """Return the file's metadata: its input, its output and its origin, as text."""
    shape = f"(n, {source.channels}, h, w)"
    return {
        "input": f"{source.color} images {shape}, float32: (pixel / 255 - mean) / std",
        "output": f"features (n, {source.dim}), float32",
        "mean": json.dumps(source.facts.mean),
        "std": json.dumps(source.facts.std),
        "image_size": str(source.size),
        "method": source.config.method,
        "mix": source.config.mix,
        "backbone": source.config.backbone,
        "encoder": source.which,
        "step": str(source.step),
    }


def example(source: Source, path: Path) -> str:
    """Return code that computes ``features`` of ``images``."""
    lines = (
        "import onnxruntime",
        "",
        f"session = onnxruntime.InferenceSession({quoted(path)}, providers={PROVIDERS})",
        'features = session.run(["features"], {"images": images.numpy()})[0]',
    )
    return "\n".join(lines)


def verify(source: Source, path: Path) -> float:
    """Return the largest difference of features when onnxruntime runs the graph, over its sizes."""
    import onnx

    (images,) = onnx.load(path, load_external_data=False).graph.input
    free = not images.type.tensor_type.shape.dim[2].HasField("dim_value")
    sides = (source.size, source.size + OTHER_SIDE) if free else (source.size,)
    return largest_difference(source, run_example(example(source, path)), sides)

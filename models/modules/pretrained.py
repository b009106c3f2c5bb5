"""Weights from timm, the Hugging Face hub and files; reading them runs no code of theirs."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import pickle
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

_SCALAR = np.float64(0).__reduce__()[0]  # the function that NumPy's numbers are pickled by
PLAIN: list[Any] = [argparse.Namespace, np.dtype, np.dtypes.Float64DType, _SCALAR]
"""Harmless types that released checkpoints hold beside their tensors."""


@dataclass(frozen=True)
class Pretrained:
    """The weights of a model by timm, classifier included, and what they were trained on."""

    name: str
    """Its timm name with the tag of the weights."""
    state: dict[str, Tensor]
    mean: tuple[float, ...]
    """Mean by which its images were normalized, of pixels in [0, 1]."""
    std: tuple[float, ...]


def load_pretrained(name: str) -> Pretrained:
    """Return the weights of a timm name with or without a tag, or of a model on the hub.

    Args:
        name: NAME, NAME.TAG, hf-hub:ORG/NAME or local-dir:FOLDER.

    Raises:
        ValueError: timm has no such weights, or they are not here and cannot be fetched.
    """
    import timm

    if ":" not in name:
        check_weights_exist(name)
    with fetching(name):
        model = timm.create_model(name, pretrained=True)
    config = cast(dict[str, Any], model.pretrained_cfg)
    tag = config.get("tag")
    full = f"{config.get('architecture')}.{tag}" if tag and ":" not in name else name
    return Pretrained(full, model.state_dict(), tuple(config["mean"]), tuple(config["std"]))


def check_weights_exist(name: str) -> None:
    """Refuse a timm name, or a tag of it, for which timm has no weights.

    Raises:
        ValueError: the text has the closest.
    """
    import timm

    base, dot, tag = name.partition(".")
    if not timm.is_model(base):
        close = difflib.get_close_matches(base, timm.list_models(), n=5)
        raise ValueError(f"timm has no model {base}; closest: {', '.join(close)}")
    known = timm.list_pretrained(f"{base}.*")
    if not known:
        raise ValueError(f"timm has no weights of {base}")
    if dot and name not in known:
        raise ValueError(f"timm has no weights {tag} of {base}; it has {', '.join(known)}")


def architecture_of(name: str) -> tuple[str, dict[str, Any]]:
    """Return the timm model that a hub's files describe, and the arguments that build it.

    Args:
        name: hf-hub:ORG/NAME or local-dir:FOLDER.

    Raises:
        ValueError: there is no such model, it is not one of timm's, or it cannot be fetched.
    """
    import timm.models
    from timm.models._hub import load_model_config_from_path

    kind, _, where = name.partition(":")
    with fetching(name):
        read = load_model_config_from_path if kind == "local-dir" else None
        found = (read or timm.models.load_model_config_from_hf)(where)
    _, architecture, arguments = found
    if not timm.is_model(architecture):
        raise ValueError(f"{name} is no model of timm's: its config.json names {architecture!r}")
    return architecture, dict(arguments or {})


@contextlib.contextmanager
def fetching(
    name: str, hint: str = "Fetch them where there is a network (--dry-run does), or --init FILE"
) -> Iterator[None]:
    """Turn what fails inside, while weights are fetched or read, into one sentence and a hint.

    Raises:
        ValueError: the weights are neither in the cache nor to be had.
    """
    try:
        with _cache_alone_if_unreachable():
            yield
    except Exception as error:  # the hub's client, its HTTP library and timm raise of all kinds
        if name.startswith("local-dir:"):
            raise ValueError(f"{name.partition(':')[2]} holds no timm model: {error}") from error
        reason = first_sentence(error)
        raise ValueError(
            f"the weights of {name} are not in the cache (HF_HOME), and could not be fetched: "
            f"{reason}. {hint}"
        ) from error


def first_sentence(error: Exception) -> str:
    """Return the first sentence of an error's text, or its type if it has none."""
    lines = str(error).splitlines() or [""]
    return lines[0].partition(". ")[0].rstrip(".") or type(error).__name__


@contextlib.contextmanager
def _cache_alone_if_unreachable() -> Iterator[None]:
    """Make the hub's client use its cache alone if the hub's name cannot be resolved.

    It would otherwise try again for most of a minute. A proxy resolves names by itself.
    """
    from huggingface_hub import constants

    proxies = {name for name in os.environ if name.lower() in ("https_proxy", "all_proxy")}
    before = constants.HF_HUB_OFFLINE
    if not proxies and not before:
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def read_file(path: Path) -> Mapping[Any, Any]:
    """Return the content of a file of weights: ``torch.save``'s or safetensors'.

    Raises:
        ValueError: it cannot be read, or holds more than weights.
    """
    if path.suffix in (".npz", ".npy", ".h5", ".onnx", ".msgpack", ".ckpt-index"):
        raise ValueError(
            f"{path.suffix} files are not read: give a file by torch.save or safetensors, or a "
            "model of the same weights as timm:NAME.TAG"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(PLAIN):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            "it holds Python objects beside its weights, which may run code when they are read; "
            "save its state_dict alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # EOFError, RuntimeError, SafetensorError, KeyError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"it is no file of weights: {reason}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not tensors by name")
    return content

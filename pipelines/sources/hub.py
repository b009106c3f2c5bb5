"""Parquet files of a data set on the Hugging Face hub, downloaded into the hub's own cache.

The cache is the one of Hugging Face's libraries (``HF_HOME``), so that what they have downloaded is
not downloaded again, and an interrupted download is continued.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.sources.hub_files import HubData, card_features, choose, list_splits
from pipelines.system.units import counted, size_text

log = logging.getLogger(__name__)

CONVERTED = "refs/convert/parquet"
"""Branch of the hub's own conversion to parquet; of large sets, a part."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Files of a split."""

    paths: tuple[Path, ...]
    spec: str
    """The spec with commit, configuration and split."""
    features: dict[str, dict[str, Any]]
    """What the data set's card says of its columns."""


def hub_parquet(spec: str, split: str = "train") -> Downloaded:
    """Download the parquet files of ``hf:ORG/NAME@REVISION/CONFIG:SPLIT``.

    Args:
        spec: what is wanted; everything after ORG/NAME may be absent.
        split: ``train`` or ``val``, which holds where the spec names none.

    Raises:
        ValueError: huggingface_hub is not installed, the hub refuses or is not reached, it has no
            such files, or the disk is too small; the text leads on.
    """
    data = HubData.parse(spec)
    hub = _client()
    with _one_line(hub, data):
        info = hub.HfApi().dataset_info(data.name, revision=data.revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    card = info.card_data.to_dict() if info.card_data is not None else {}
    files = list_splits(list(sizes), card)
    if not files:
        raise ValueError(_no_parquet(data, list(sizes)))
    config, chosen = choose(files, data, split)
    names = files[config][chosen]
    whole = f"hf:{data.name}@{info.sha}/{config}:{chosen}"
    _check_room(hub, whole, sum(sizes[name] for name in names))
    total = size_text(sum(sizes[name] for name in names))
    log.info("%s: %s, %s", whole, counted(len(names), "file"), total)
    with _one_line(hub, data):
        paths = [
            Path(hub.hf_hub_download(data.name, name, repo_type="dataset", revision=info.sha))
            for name in names
        ]
    return Downloaded(tuple(paths), whole, card_features(card, config))


def _client() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ValueError(
            f"hf: needs huggingface_hub, which cannot be imported ({error}): "
            "pip install 'unmix[parquet]'"
        ) from error
    return huggingface_hub


def _no_parquet(data: HubData, names: list[str]) -> str:
    if data.revision is None:
        way = f"the hub's own conversion, if there is one, is hf:{data.name}@{CONVERTED}"
    else:
        way = "other revisions are on its page"
    if any(name.endswith(".tar") for name in names):
        way += "; its .tar files are read by wds:PATTERN once they are downloaded"
    return f"hf:{data.name} has no .parquet among its {counted(len(names), 'file')}: {way}"


def _check_room(hub: Any, spec: str, need: int) -> None:
    """Refuse a download that the disk of the hub's cache does not hold."""
    cache = Path(hub.constants.HF_HUB_CACHE).absolute()
    place = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    kept = cache / f"datasets--{spec.removeprefix('hf:').partition('@')[0].replace('/', '--')}"
    there = sum(file.stat().st_size for file in kept.glob("blobs/*")) if kept.is_dir() else 0
    if need - there > free:
        raise ValueError(
            f"{spec} has {size_text(need)}, and {size_text(free)} are free for {cache}: "
            "HF_HOME names a folder on another disk"
        )


@contextmanager
def _one_line(hub: Any, data: HubData) -> Iterator[None]:
    """Turn the client's errors into one sentence that leads on.

    Raises:
        ValueError: for each of them.
    """
    errors, where = hub.errors, f"hf:{data.name}"
    login = "`hf auth login` (or HF_TOKEN=...)"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{where} is open to accounts that have accepted its terms on its page: accept them, "
            f"then {login} with a token of that account"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{where} has no revision {data.revision}") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{where}: the hub has no such data set, or it is private: {login} with a token that "
            "may read it"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise ValueError(
            f"{where}: HF_HUB_OFFLINE is set: unset it, or {_elsewhere(data)}"
        ) from error
    except errors.HfHubHTTPError as error:
        answer = " ".join((error.server_message or str(error)).split())
        raise ValueError(f"{where}: the hub answered: {answer}") from error
    except errors.HFValidationError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
    except (*errors.HfHubHTTPError.__bases__, errors.LocalEntryNotFoundError) as error:
        raise ValueError(
            f"{where}: the hub was not reached ({' '.join(str(error).split())}): check the "
            f"network, and HTTPS_PROXY or HF_ENDPOINT if there is a proxy or a mirror; or "
            f"{_elsewhere(data)}"
        ) from error


def _elsewhere(data: HubData) -> str:
    """Return the commands that fetch the data set on another machine."""
    revision = f" --revision {data.revision}" if data.revision else ""
    return (
        f"download it where a network is (`hf download --repo-type dataset {data.name}{revision} "
        "--include '*.parquet' --local-dir FOLDER`), copy FOLDER here, and give its files as "
        "'parquet:FOLDER/data/train-*.parquet'"
    )

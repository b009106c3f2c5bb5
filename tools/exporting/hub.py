"""Send an exported folder to the Hugging Face hub, as one commit."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

LOGIN = "`hf auth login` (or HF_TOKEN=...) with a token that may write"
FAILURES: tuple[type[Exception], ...] = HfHubHTTPError.__bases__
"""What the client raises when the hub refuses or is not reached, whichever HTTP library it uses."""


@dataclass(frozen=True)
class Place:
    """Where a model goes on the hub."""

    name: str
    """ACCOUNT/NAME."""
    private: bool = False
    """Make a new model visible to its account alone."""
    replace: bool = False
    """A model of this name may exist; the commit is added to it."""


def check_name(name: str) -> None:
    """Check the form of a model's name on the hub.

    Raises:
        ValueError: it is not ACCOUNT/NAME, or has letters that the hub does not take.
    """
    if name.count("/") != 1:
        raise ValueError(f"--push {name}: name an account and a model, as ACCOUNT/NAME")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"--push {name}: {error}") from error


def check_access(place: Place) -> None:
    """Ask the hub, before any work, whether a model can be sent to this place.

    Raises:
        ValueError: there is no token, it may not write, the name is taken, or no answer came.
    """
    name = place.name
    if get_token() is None:
        raise ValueError(f"--push {name}: there is no token of the hub: {LOGIN}")
    api = HfApi()
    with _one_line(name):
        token = api.whoami().get("auth", {}).get("accessToken", {})
        taken = api.repo_exists(name)
    if token.get("role") == "read":
        raise ValueError(f"--push {name}: the token may only read: {LOGIN}")
    if taken and not place.replace:
        raise ValueError(
            f"--push {name}: there is such a model on the hub: choose another name, or --overwrite "
            "to add a commit to it"
        )


def push(folder: Path, files: Sequence[str], place: Place, message: str) -> str:
    """Create the model on the hub if necessary, and commit files of a folder; return its address.

    Args:
        folder: the exported folder.
        files: names of the files to send; other files of the folder stay here.
        place: the model's name, and what may happen to it.
        message: the commit's message.

    Raises:
        ValueError: the hub refused or was not reached; the message names the command to try again.
    """
    api = HfApi()
    again = ["hf", "upload", place.name, str(folder), ".", *["--private"] * place.private]
    with _one_line(place.name, f"; {folder} is complete: send it by `{shlex.join(again)}`"):
        address = api.create_repo(place.name, private=place.private or None, exist_ok=place.replace)
        api.upload_folder(
            repo_id=place.name,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message=message,
        )
    return str(address)


def listing(folder: Path, files: Sequence[str]) -> list[str]:
    """Return a line for each file to be sent: its size and its name."""
    return [f"{(folder / name).stat().st_size:>13,} bytes  {name}" for name in files]


@contextmanager
def _one_line(name: str, after: str = "") -> Iterator[None]:
    """Turn the client's errors into one line that leads on."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ValueError(f"--push {name}: HF_HUB_OFFLINE is set: unset it{after}") from error
    except HfHubHTTPError as error:
        raise ValueError(f"--push {name}: {_reason(error)}{after}") from error
    except ValueError as error:  # the card's metadata, in many lines
        raise ValueError(f"--push {name}: {' '.join(str(error).split())}{after}") from error
    except FAILURES as error:
        raise ValueError(
            f"--push {name}: the hub was not reached ({error}): check the network, and HTTPS_PROXY "
            f"or HF_ENDPOINT if there is a proxy or a mirror{after}"
        ) from error


def _reason(error: HfHubHTTPError) -> str:
    """Return why the hub refused, and what helps."""
    status = error.response.status_code
    answer = " ".join((error.server_message or str(error)).split())
    if status == 401:
        return f"the hub does not accept the token ({answer}): {LOGIN}"
    if status == 403:
        return f"the token may not write there ({answer}): another account, or {LOGIN}"
    return f"the hub answered {status}: {answer}"

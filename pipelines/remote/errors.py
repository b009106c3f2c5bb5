"""What goes wrong with a remote file, in the words of whoever typed its URL."""

from __future__ import annotations

import re


class RemoteError(ValueError):
    """A remote file cannot be read or written: what happened, its URL, and what leads on."""


class NotThere(RemoteError):
    """There is no such object, or none that may be read: the two look alike in many stores."""


CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, an instance role, or AWS_PROFILE with "
    "boto3 installed, give access; AWS_SKIP_SIGNATURE=true reads a public bucket; AWS_ENDPOINT_URL "
    "and AWS_REGION name another server",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`, gives "
    "access; GOOGLE_SKIP_SIGNATURE=true reads a public bucket",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN "
    "gives access; AZURE_SKIP_SIGNATURE=true reads a public container",
    "hf": "HF_TOKEN, or `hf auth login`, gives access to private and gated data sets",
    "http": "A web server is sent no credentials; a signed URL carries its own",
}
"""What gives access, by kind of URL."""
KINDS_OF_FAILURE = {
    "Timeout": "no answer in time",
    "Connect": "no connection",
    "Interrupted": "the connection broke",
}
"""What the library calls a failed connection, and what it means."""
METADATA = ("/latest/api/token", "/latest/meta-data/", "/metadata/identity/", "/computeMetadata/")
"""Parts of the addresses at which a machine in a cloud asks for credentials."""
CHANGED = (
    "{url}: the object has changed since it was opened ({how}). Bytes of two versions are never "
    "mixed; start again to read the new one"
)


NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist")
"""What S3, Azure and Google call a bucket that is not there."""


def is_about_bucket(error: object) -> bool:
    """Whether an error of the library says that there is no such bucket."""
    return any(words in str(error) for words in NO_BUCKET)


def without_query(text: str) -> str:
    """Return a text without the queries of its URLs, which may hold signatures."""
    return re.sub(r"(https?://[^\s?]+)\?[^\s)]*", r"\1", text, flags=re.IGNORECASE)


def reason(error: BaseException) -> str:
    """Return what an error of the library says, in short and without the queries of URLs."""
    text, _, debug = str(error).partition("Debug source")
    for kind, words in KINDS_OF_FAILURE.items():
        if f"kind: {kind}" in debug:
            return f"{words}{_tries(text)}"
    if status := re.search(r"non-2xx status code: (\d+(?: [A-Z]\w+)*)", text):
        return f"status {status[1]}{_tries(text)}"
    return without_query(" ".join(text.split()))


def _tries(text: str) -> str:
    """Return which host was asked, how often and for how long, as far as the library says it."""
    form = r"performing \w+ \w+://([^/\s]+)\S* in ([\d.]+)(m?s), after (\d+) retries"
    found = re.search(form, text)
    if not found:
        return ""
    seconds = float(found[2]) / (1000 if found[3] == "ms" else 1)
    return f" ({found[1]}, {int(found[4]) + 1} tries in {seconds:.2g} s)"


def no_credentials(url: str, kind: str) -> RemoteError:
    """Return the refusal when none are set, and the machine has no role that gives some."""
    return RemoteError(
        f"{url}: no credentials are set, and no cloud gives this machine some. {CREDENTIALS[kind]}"
    )


def no_access(url: str, kind: str, error: BaseException) -> NotThere:
    """Return the refusal of a store that knows, or accepts, no credentials of ours."""
    code = "401" if "Unauthenticated" in type(error).__name__ else "403"
    return NotThere(f"{url}: access denied ({code}). {CREDENTIALS[kind]}")


def not_found(url: str, kind: str, is_bucket: bool = False) -> NotThere:
    """Return the refusal for an object or a bucket that is not there, or is hidden from us."""
    what = "bucket" if is_bucket else "object"
    return NotThere(
        f"{url}: no such {what} (404). Check the spelling; a store may also hide an object from "
        f"whoever may not read it. {CREDENTIALS[kind]}"
    )


def no_ranges(url: str) -> RemoteError:
    """Return the refusal of a server that sends whole files only."""
    return RemoteError(
        f"{url}: the server does not serve ranges of a file (no reply 206 to Range). An object "
        "store does, as do nginx and Apache; python -m http.server does not. Or download the file"
    )


def wrong_range(url: str, error: BaseException) -> RemoteError:
    """Return the refusal of a server, or a proxy, that sends other bytes than asked for."""
    return RemoteError(
        f"{url}: the server sent other bytes than asked for ({reason(error)}). A proxy may be in "
        "the way; another URL of the same object, or a download, avoids it"
    )


def failed(url: str, error: BaseException, fetching: bool = False) -> RemoteError:
    """Return the refusal after all retries of a request; ``fetching``: one of many at a time."""
    text = reason(error)
    busy = fetching and ("429" in text or "503" in text)
    fewer = "; --fetch-connections asks for less at a time" if busy else ""
    return RemoteError(f"{url}: the request failed after all retries: {text}{fewer}")


def disk_full(folder: object, url: str) -> RemoteError:
    """Return the refusal when a piece cannot be written; what is present stays right."""
    return RemoteError(
        f"{url}: the disk of {folder} is full. --cache-size limits what is kept there, and "
        "--cache-dir names another folder; what is there stays valid"
    )

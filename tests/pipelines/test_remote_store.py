"""Stores: S3 and the Hub on loopback, patterns, uploads, signatures, and the way out."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
from pathlib import Path

import pytest
from http_store import serving
from hub_cases import COMMIT, Data, serve

from pipelines.remote import connect, hub, store
from pipelines.remote.connect import Retry
from pipelines.remote.errors import RemoteError
from pipelines.remote.store import RemoteObject, expand, open_object, read_small, upload
from pipelines.remote.url import braces, is_remote, matching, split

pytest_plugins = "s3_server"
pytest.importorskip("obstore", reason="remote files need obstore: pip install 'unmix[remote]'")
FAST = Retry(attempts=2, first_wait=0.002, longest_wait=0.01, silence=5.0, total=9.0)


def read(thing: RemoteObject, begin: int, end: int) -> bytes:
    """Return the bytes ``begin`` to ``end - 1``."""

    async def whole() -> bytes:
        return b"".join([bytes(chunk) async for chunk in thing.chunks(begin, end)])

    return asyncio.run(whole())


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the stores of other tests, and the machine's own credentials."""
    for name in [n for n in os.environ if n.startswith(("AWS_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    for cached in (connect.store_of, connect._located, hub._commit):
        cached.cache_clear()


def test_s3_is_written_listed_and_read(bucket: str, tmp_path: Path) -> None:
    local = tmp_path / "local"
    data = bytes(range(256)) * 1000
    for key in ("a/x-0.tar", "a/x-1.tar", "a/sub/x-2.tar", "a b/ü+1.tar"):
        local.write_bytes(data + key.encode())
        upload(local, f"{bucket}/{key}")
    assert expand(f"{bucket}/a/*.tar") == [f"{bucket}/a/x-0.tar", f"{bucket}/a/x-1.tar"]
    assert expand(f"{bucket}/a/x-?.tar") == [f"{bucket}/a/x-0.tar", f"{bucket}/a/x-1.tar"]
    assert expand(f"{bucket}/a*/[xü]*1.tar") == [f"{bucket}/a b/ü+1.tar", f"{bucket}/a/x-1.tar"]
    with pytest.raises(RemoteError, match=r"matches none of the 3 files below s3://.*/a"):
        expand(f"{bucket}/a/*.zip")
    for key in ("a/x-1.tar", "a b/ü+1.tar"):
        thing = open_object(f"{bucket}/{key}", FAST)
        assert thing.size == len(data) + len(key.encode())
        assert read(thing, 1000, 1300) == data[1000:1300]
    with pytest.raises(RemoteError, match=r"a/none: no such object \(404\).*AWS_ACCESS_KEY_ID"):
        open_object(f"{bucket}/a/none", FAST)
    with pytest.raises(RemoteError, match=r"x\.tar: no such bucket \(404\)"):
        open_object(f"{bucket}-none/x.tar", FAST)
    assert read_small(f"{bucket}/a/none", FAST) is None
    assert read_small(f"{bucket}/a/x-0.tar", FAST) == data + b"a/x-0.tar"
    local.write_bytes(b"new")
    with pytest.raises(RemoteError, match="exists already; --overwrite"):
        upload(local, f"{bucket}/a/x-0.tar")
    upload(local, f"{bucket}/a/x-0.tar", replace=True)
    assert read_small(f"{bucket}/a/x-0.tar") == b"new"


def test_a_failed_upload_shows_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.s3.models import S3Backend

    local = tmp_path / "local"
    local.write_bytes(bytes(5000))
    monkeypatch.setattr(store, "PART", 1000)
    received = []

    def part(*args: object, **kwargs: object) -> None:
        received.append(args)
        raise OSError("the disk of the store is full")

    with monkeypatch.context() as patch:
        patch.setattr(S3Backend, "upload_part", part)
        with pytest.raises(RemoteError, match="the request failed after all retries"):
            upload(local, f"{bucket}/x.beton", retry=FAST)
    assert received and read_small(f"{bucket}/x.beton") is None
    with pytest.raises(RemoteError, match="matches none of the 0 files"):
        expand(f"{bucket}/*")


def test_a_profile_of_aws_is_read(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"text")
    upload(local, f"{bucket}/x")
    saved = tmp_path / "credentials"
    saved.write_text("[mine]\naws_access_key_id = from-the-profile\naws_secret_access_key = b\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(saved))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    connect.store_of.cache_clear()
    assert connect._aws_profile()()["access_key_id"] == "from-the-profile"
    assert read(open_object(f"{bucket}/x", FAST), 0, 4) == b"text"


@pytest.mark.parametrize("url", ["s3://box/x", "az://box/x"])
def test_missing_credentials_are_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({}) as web:
        nobody = web.url
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", nobody)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "mine")
    monkeypatch.setenv("AZURE_MSI_ENDPOINT", f"{nobody}/metadata/identity/oauth2/token")
    name = {"s3": "AWS_ACCESS_KEY_ID", "az": "AZURE_STORAGE_ACCOUNT_KEY"}[url[:2]]
    with pytest.raises(RemoteError, match=f"no credentials are set.*{name}"):
        open_object(url, FAST)


def test_the_hub_is_read_at_one_commit_through_signed_urls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = {"data/a 1.tar": b"0123456789" * 10, "data/b.tar": b"b" * 50, "other": b"c"}
    with serve() as front, serving(data) as files:
        site = front.data["org/name"] = Data(store=files, token="secret")
        monkeypatch.setenv("HF_ENDPOINT", front.address)
        with pytest.raises(RemoteError, match=r"org/name: access denied \(40.\).*HF_TOKEN"):
            open_object("hf://datasets/org/name/data/b.tar", FAST)
        front.asked.clear()
        monkeypatch.setenv("HF_TOKEN", "secret")
        url = "hf://datasets/org/name/data/a 1.tar"
        thing = open_object(url, FAST)
        assert (thing.size, read(thing, 5, 15)) == (100, b"5678901234")
        assert site.signed == ["data/a 1.tar"]
        site.expire()
        assert read(thing, 15, 25) == b"5678901234"
        assert site.signed == ["data/a 1.tar"] * 2
        assert read(open_object("HF://datasets/org/name@main/other"), 0, 1) == b"c"
        assert expand("hf://datasets/org/name/data/*.tar") == [
            "hf://datasets/org/name/data/a 1.tar",
            "hf://datasets/org/name/data/b.tar",
        ]
        with pytest.raises(RemoteError, match=r"none: no such object \(404\)"):
            open_object("hf://datasets/org/name/none", FAST)
        revisions = [asked for asked in front.asked if "revision" in asked]
        assert len(revisions) == 1 and any(COMMIT in asked for asked in front.asked)
    with pytest.raises(RemoteError, match="hf://datasets/ORG/NAME/PATH"):
        open_object("hf://org/name/model.bin")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("az://box/a/b c.tar", "mine/box/a/b c.tar"),
        ("abfs://box/a/b c.tar", "mine/box/a/b c.tar"),
        ("abfss://box@mine.dfs.core.windows.net/a/b c.tar", "mine/box/a/b c.tar"),
        ("gs://box/a/b c.tar", "box/a/b c.tar"),
    ],
)
def test_azure_and_google_are_asked_where_the_url_says(
    url: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving({path: b"0123"}) as web:
        account = tmp_path / "account.json"
        entries = {"gcs_base_url": web.url, "disable_oauth": True}
        names = ("client_email", "private_key", "private_key_id")
        account.write_text(json.dumps(entries | dict.fromkeys(names, "")))
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(account))
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "mine")
        monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{web.url}/mine")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        assert read(open_object(url, FAST), 1, 3) == b"12"
        web.fault("404")
        hint = "GOOGLE_APPLICATION_CREDENTIALS" if url.startswith("gs") else "AZURE_STORAGE_ACCOUNT"
        with pytest.raises(RemoteError, match=hint):
            open_object(url, FAST)


def test_a_signature_is_sent_and_never_shown() -> None:
    with serving({"a b.tar": b"0123"}) as web:
        url = f"{web.url}/a%20b.tar?X-Sig=secret%2F1"
        thing = open_object(url, FAST)
        assert read(thing, 1, 3) == b"12"
        assert {request.query for request in web.requests} == {"X-Sig=secret%2F1"}
        for kind in ("403", "500", "truncate", "whole", "new etag"):
            web.fault(kind, times=99)
            with pytest.raises(RemoteError) as caught:
                read(thing, 0, 4)
            assert "secret" not in str(caught.value) and "/a%20b.tar" in str(caught.value)
            web.heal()
        assert "secret" not in thing.title
        assert "secret" not in open_object(url.replace("http", "HTTP"), FAST).title


def test_what_a_web_server_cannot_do(tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"x")
    with serving({"a.json": b"[]", "empty": b""}) as web:
        assert read_small(f"{web.url}/a.json") == b"[]"
        assert read_small(f"{web.url}/none") is None
        with pytest.raises(RemoteError, match=r"a web server lists no files; \{000..146\}"):
            expand(f"{web.url}/*.tar")
        with pytest.raises(RemoteError, match="cannot be written; s3://"):
            upload(local, f"{web.url}/b")
        with pytest.raises(RemoteError, match="/empty: is empty"):
            open_object(f"{web.url}/empty", FAST)
    with pytest.raises(RemoteError, match="request failed after all retries"):
        open_object(f"{web.url}/a.json", FAST)  # the server has ended


def test_patterns() -> None:
    assert expand("https://h/x-{08..11}-{a,b}.tar")[:3] == [
        "https://h/x-08-a.tar",
        "https://h/x-08-b.tar",
        "https://h/x-09-a.tar",
    ]
    assert expand("https://h/x.tar?a=*".replace("*", "1")) == ["https://h/x.tar?a=1"]
    for wrong in ("s3://b/{1..", "s3://b/{1}", "s3://b/{5..1}", "s3://b/{0..9}{0..99999}"):
        with pytest.raises(RemoteError, match=r"s3://b/\{"):
            braces(wrong)
    assert matching(["s3://b/c/x", "s3://b/x"], "s3://b/*") == ["s3://b/x"]
    assert [is_remote(x) for x in ("s3://b/k", "wds:s3://b/k", "C:/x", "s3://")] == [
        True, False, False, False,
    ]  # fmt: skip
    assert split("s3://b/c/x y") == ("s3://b/c", "x y")
    for wrong in ("s3://b", "s3://b/c/", "ftp://b/c"):
        with pytest.raises(RemoteError, match=wrong):
            split(wrong)


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_imported", functools.cache(connect._imported.__wrapped__))
    monkeypatch.setitem(sys.modules, "obstore", None)
    for act in (open_object, read_small):
        with pytest.raises(RemoteError, match=r"pip install 'unmix\[remote\]'"):
            act("s3://b/k")

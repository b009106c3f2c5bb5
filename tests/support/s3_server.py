"""S3 on loopback, by moto; fixtures of the tests that import them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The server's URL."""
    server = pytest.importorskip("moto.server", reason="S3 on loopback needs moto")
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of an empty bucket that the environment gives access to."""
    import boto3

    secret = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    for name, value in (secret | {"AWS_ENDPOINT_URL": moto}).items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(tmp_path))}"
    boto3.client("s3", endpoint_url=moto, region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}"

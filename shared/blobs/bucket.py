"""How an object store is reached: address, credentials from a file, encryption at rest, patience."""

import configparser
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from obstore.store import ObjectStore, from_url

from undersong.shared.clock import utc_now
from undersong.shared.files import read_text

Encryption = Literal["AES256", "aws:kms"]
"""What the store is asked for with each object: a key of the store's own, or one of its key management service."""

_READ_AGAIN: Final = timedelta(minutes=15)
_RETRIES: Final = 5
_RETRY_FOR: Final = timedelta(seconds=20)
_CLIENT: Final[dict[str, Any]] = {
    "connect_timeout": "5s",
    "read_timeout": "20s",  # between two pieces of an answer
    "timeout": "1h",  # of a whole answer: a large model over a slow line
}


class _Credential(TypedDict):
    access_key_id: str
    secret_access_key: str
    token: str | None
    expires_at: datetime


@dataclass(frozen=True)
class BucketOptions:
    """What the URL does not say; None: the environment (`AWS_…`) or the store's default."""

    endpoint: str | None = None
    region: str | None = None
    credentials_file: Path | None = None
    encryption: Encryption | None = None
    kms_key: str | None = None

    @property
    def given(self) -> bool:
        """Return whether anything is set."""
        return self != BucketOptions()


def read_credentials(file: Path) -> _Credential:
    """Return the section `[default]` of a credentials file as AWS's tools write it; raises ValueError or OSError.

    The store's client asks again some minutes before `expires_at`, so a file that is replaced comes into use by itself.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(file))
        section = parser["default"]
        access, secret = section["aws_access_key_id"], section["aws_secret_access_key"]
    except (configparser.Error, KeyError):  # whose text may hold a line of the file
        raise ValueError(f"{file} needs a section [default] with aws_access_key_id and aws_secret_access_key") from None
    token = section.get("aws_session_token") or None
    return _Credential(access_key_id=access, secret_access_key=secret, token=token, expires_at=utc_now() + _READ_AGAIN)


def open_bucket(url: str, options: BucketOptions) -> ObjectStore:
    """Return the object store at `s3://bucket/prefix`, or one in memory (`memory:///`)."""
    if url.startswith("memory:"):
        return from_url(url)
    client: dict[str, Any] = {**_CLIENT, "allow_http": (options.endpoint or "").startswith("http://")}
    found: dict[str, Any] = {
        "endpoint": options.endpoint,
        "region": options.region,
        "server_side_encryption": options.encryption,
        "sse_kms_key_id": options.kms_key,
        "credential_provider": None,
        "client_options": client if options.endpoint else _CLIENT,
        "retry_config": {"max_retries": _RETRIES, "retry_timeout": _RETRY_FOR},
    }
    if (file := options.credentials_file) is not None:
        found["credential_provider"] = lambda: read_credentials(file)
    given = {name: value for name, value in found.items() if value is not None}
    return from_url(url, copy_if_not_exists="multipart", **given)

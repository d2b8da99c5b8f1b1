"""What every service can be told by its environment: ``<SERVICE>_<FIELD>``, or a file of that name in /run/secrets.

A service subclasses `ServiceSettings` with ``model_config = settings_config("registry")`` and is read once, at start.
"""

import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.identity.transport import trust
from shared.web.limits import Limits

_SECRETS: Final = Path("/run/secrets")
_BAD_CONFIGURATION: Final = 2
S = TypeVar("S", bound="ServiceSettings")


def settings_config(service: str) -> SettingsConfigDict:
    """Settings of this service come from ``<SERVICE>_…``; unknown names in the environment are left alone."""
    return SettingsConfigDict(
        env_prefix=f"{service.upper()}_",
        secrets_dir=_SECRETS if _SECRETS.is_dir() else None,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
    )


class ServiceSettings(BaseSettings):
    """Common to the four services."""

    database_url: SecretStr = SecretStr("")  # empty: SQLite in data_dir, for a platform on one machine
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    data_dir: Path = Path("data")
    host: str = "127.0.0.1"  # loopback unless told otherwise
    port: int = 0
    keys_url: str = "http://127.0.0.1:7003"
    coordinator_url: str = "http://127.0.0.1:7001"
    aggregator_url: str = "http://127.0.0.1:7002"
    registry_url: str = "http://127.0.0.1:7004"
    public_url: str | None = None
    enrol_token_file: Path | None = None
    tls_file: Path | None = None  # key and certificate in one PEM file; none: plain HTTP
    ca_file: Path | None = None  # whom to believe behind https addresses; none: the system's authorities
    seal_key_file: Path | None = None  # none: data_dir/seal.key, made at first start
    otel_endpoint: str | None = None
    worker_metrics_port: int | None = None  # where a worker, which has no API, offers /metrics
    migrate_on_start: bool = False
    rate_per_s: float = Field(100.0, ge=0)  # requests of one site or one person's token; 0: no limit
    rate_burst: int = Field(2000, ge=1)
    anonymous_rate_per_s: float = Field(200.0, ge=0)  # requests of one address without a credential; 0: no limit
    anonymous_burst: int = Field(4000, ge=1)
    failures_per_s: float = Field(20.0, ge=0)  # refused credentials of one address; 0: no limit
    failure_burst: int = Field(1000, ge=1)
    held_bytes: int = Field(256 << 20, ge=1)  # request bodies in memory at one time
    requests_at_once: int = Field(10_000, ge=1)  # waiting long polls included
    trusted_proxies: str = "127.0.0.1"  # whose X-Forwarded-For is believed; addresses or networks, with commas
    log_level: str = "INFO"
    log_json: bool = True

    @property
    def database(self) -> str:
        """The database URL in clear."""
        return self.database_url.get_secret_value()

    @property
    def redis(self) -> str:
        """The Redis URL in clear."""
        return self.redis_url.get_secret_value()

    @property
    def trust(self) -> ssl.SSLContext | bool:
        """What an HTTP client of this service believes, for its `verify`."""
        return trust(self.ca_file, (self.keys_url, self.coordinator_url, self.aggregator_url, self.registry_url))

    @property
    def limits(self) -> Limits:
        """What one API process allows its callers."""
        return Limits(
            rate_per_s=self.rate_per_s,
            burst=self.rate_burst,
            anonymous_rate_per_s=self.anonymous_rate_per_s,
            anonymous_burst=self.anonymous_burst,
            failures_per_s=self.failures_per_s,
            failure_burst=self.failure_burst,
            held_bytes=self.held_bytes,
            requests_at_once=self.requests_at_once,
        )

    @property
    def identity_dir(self) -> Path:
        """Where this service keeps its key and certificate."""
        return self.data_dir / "identity"

    @property
    def volumes(self) -> Mapping[str, Path]:
        """The folders whose disks may fill."""
        return {"data": self.data_dir}

    @property
    def seal_key(self) -> Path:
        """The key file for secrets at rest."""
        return self.seal_key_file or self.data_dir / "seal.key"

    @model_validator(mode="before")
    @classmethod
    def _default_database(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not values.get("database_url"):
            name = str(cls.model_config.get("env_prefix", "")).rstrip("_").lower() or "undersong"
            folder = Path(values.get("data_dir") or cls.model_fields["data_dir"].default)
            values["database_url"] = f"sqlite+aiosqlite:///{folder.absolute() / name}.sqlite"
        return values

    @field_validator("tls_file", "ca_file")
    @classmethod
    def _file_is_there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"there is no file {path}")
        return path

    @model_validator(mode="after")
    def _plain_urls(self) -> Self:
        for name in ("keys_url", "coordinator_url", "aggregator_url", "registry_url"):
            url: str = getattr(self, name)
            if not url.startswith(("http://", "https://")) or url.endswith("/"):
                raise ValueError(f"{name} must start with http:// or https:// and not end with /")
        return self


def load_settings(kind: type[S]) -> S:
    """Read the environment; a bad value ends the process with one line a field and status 2."""
    try:
        return kind()
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        for item in error.errors():
            name = "_".join(str(part) for part in item["loc"]).upper()
            sys.stderr.write(f"setting {prefix}{name}: {item['msg']}\n")
        raise SystemExit(_BAD_CONFIGURATION) from None

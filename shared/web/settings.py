"""What every service can be told by its environment: ``<SERVICE>_<FIELD>``, or a file of that name in /run/secrets.

A service subclasses `ServiceSettings` with ``model_config = settings_config("registry")`` and is read once, at start.
"""

import os
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from undersong.shared.identity.transport import trust
from undersong.shared.names import environment_faults
from undersong.shared.web.limits import Limits

_SECRETS: Final = Path("/run/secrets")
_BAD_CONFIGURATION: Final = 2
S = TypeVar("S", bound="EdgeSettings")


def settings_config(service: str) -> SettingsConfigDict:
    """Return the settings' form, read from ``<SERVICE>_…``; `load_settings` refuses near matches of their names."""
    return SettingsConfigDict(
        env_prefix=f"{service.upper()}_",
        secrets_dir=_SECRETS if _SECRETS.is_dir() else None,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
    )


class EdgeSettings(BaseSettings):
    """Common to every process that answers HTTP requests."""

    host: str = Field("127.0.0.1", description="Address that is listened on; 0.0.0.0 for every one")
    port: int = Field(0, description="Port that is listened on")
    tls_file: Path | None = Field(
        None, description="Key and certificate for HTTPS in one PEM file, read again when it changes; none: plain HTTP"
    )
    otel_endpoint: str | None = Field(
        None, description="Where spans go: http://collector:4318 (OTLP), or file:/folder; none: nowhere"
    )
    rate_per_s: float = Field(
        100.0, ge=0, description="Requests in a second of one site or one person's token; 0: no limit"
    )
    rate_burst: int = Field(2000, ge=1, description="Requests of one site or token at once, before `rate_per_s` counts")
    anonymous_rate_per_s: float = Field(
        200.0, ge=0, description="Requests in a second of one address without a credential; 0: no limit"
    )
    anonymous_burst: int = Field(4000, ge=1, description="Such requests at once, before `anonymous_rate_per_s` counts")
    failures_per_s: float = Field(20.0, ge=0, description="Refused credentials in a second of one address; 0: no limit")
    failure_burst: int = Field(1000, ge=1, description="Refused credentials at once, before `failures_per_s` counts")
    held_bytes: int = Field(256 << 20, ge=1, description="Bytes of request bodies in memory at one time")
    requests_at_once: int = Field(10_000, ge=1, description="Requests at one time, waiting long polls included")
    trusted_proxies: str = Field(
        "127.0.0.1", description="Proxies whose X-Forwarded-For is believed: addresses or networks, with commas between"
    )
    log_level: str = Field("INFO", description="Least level that is logged: DEBUG, INFO, WARNING or ERROR")
    log_json: bool = Field(True, description="Whether log lines are JSON; else text for a terminal")

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

    @field_validator("tls_file", "ca_file", check_fields=False)
    @classmethod
    def _file_is_there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"there is no file {path}")
        return path


class ServiceSettings(EdgeSettings):
    """Common to the four services and the helper."""

    database_url: SecretStr = Field(
        SecretStr(""),
        description="Address of the database (postgresql+psycopg://…); empty: SQLite in `data_dir`, for a platform on "
        "one machine",
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Address of Redis, through which processes of the service tell each other of events",
    )
    data_dir: Path = Field(
        Path("data"), description="Folder of the identity and of what is not elsewhere by another setting"
    )
    keys_url: str = Field("http://127.0.0.1:7003", description="Base address of the keys service")
    coordinator_url: str = Field("http://127.0.0.1:7001", description="Base address of the coordinator")
    aggregator_url: str = Field("http://127.0.0.1:7002", description="Base address of the aggregator")
    registry_url: str = Field("http://127.0.0.1:7004", description="Base address of the registry")
    public_url: str | None = Field(
        None, description="Base address by which others reach this service, where a proxy is in front of it"
    )
    enrol_token_file: Path | None = Field(None, description="File of the single-use token for the first certificate")
    ca_file: Path | None = Field(
        None, description="PEM file of the authorities that are trusted behind https addresses; none: the system's"
    )
    seal_key_file: Path | None = Field(
        None, description="Key file for secrets at rest; none: `seal.key` in `data_dir`, created at the first start"
    )
    worker_metrics_port: int | None = Field(
        None, description="Port on which a worker, which has no API, offers /metrics; none: no metrics of workers"
    )
    migrate_on_start: bool = Field(
        False, description="Whether the database's schema is brought up to date at the start"
    )

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

    @model_validator(mode="after")
    def _plain_urls(self) -> Self:
        for name in ("keys_url", "coordinator_url", "aggregator_url", "registry_url"):
            url: str = getattr(self, name)
            if not url.startswith(("http://", "https://")) or url.endswith("/"):
                raise ValueError(f"{name} must start with http:// or https:// and not end with /")
        return self


def load_settings(kind: type[S]) -> S:
    """Read the environment; a bad value or a misspelt name ends the process with one line each and status 2."""
    prefix = str(kind.model_config.get("env_prefix", ""))
    secrets = [file.name for file in _SECRETS.iterdir()] if _SECRETS.is_dir() else []
    faults = environment_faults({*os.environ, *secrets}, prefix, kind.model_fields)
    try:
        settings = kind()
    except SettingsError as error:
        faults.append(f"a variable that begins with {prefix} is not JSON: {error}")
    except ValidationError as error:
        for item in error.errors():
            name = "_".join(str(part) for part in item["loc"]).upper()
            faults.append(f"{prefix}{name}: {item['msg']}")
    else:
        if not faults:
            return settings
    sys.stderr.write("".join(f"setting {fault}\n" for fault in faults))
    raise SystemExit(_BAD_CONFIGURATION)

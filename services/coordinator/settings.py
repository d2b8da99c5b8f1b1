"""The coordinator's settings: ``COORDINATOR_…`` in the environment, or files in /run/secrets."""

from pathlib import Path

from pydantic import Field, field_validator

from undersong.shared.origins import origin_of
from undersong.shared.web.settings import ServiceSettings, settings_config


class CoordinatorSettings(ServiceSettings):
    """Beside what every service has, the platform's only three times."""

    model_config = settings_config("coordinator")

    port: int = Field(7001, description="Port that is listened on")
    heartbeat_s: float = Field(
        10.0,
        gt=0,
        le=600,
        description="Seconds between two signs of life of an agent with a task; an abort reaches it within this time",
    )
    lease_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds that a task stays with an agent without a sign of life: three heartbeats, of which two "
        "may be lost",
    )
    round_deadline_s: float = Field(
        600.0, ge=1, le=7 * 86_400, description="Seconds for a round of a job that sets no deadline"
    )
    webhook_origins: str = Field(
        "",
        description="Origins to which webhooks may be sent, with commas between: https://hooks.example.org, or with a "
        "port; empty: none",
    )
    webhook_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that are trusted behind webhooks' https addresses; none: the system's",
    )

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of `webhook_origins`."""
        return tuple(each.strip() for each in self.webhook_origins.split(",") if each.strip())

    @field_validator("webhook_origins")
    @classmethod
    def _are_origins(cls, listed: str) -> str:
        for each in (part.strip() for part in listed.split(",") if part.strip()):
            if origin_of(each) != each:
                raise ValueError(f"{each!r} is no origin; {origin_of(each)} would be one")
        return listed

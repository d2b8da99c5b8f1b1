"""The coordinator's settings: ``COORDINATOR_…`` in the environment, or files in /run/secrets."""

from pydantic import Field

from shared.web.settings import ServiceSettings, settings_config


class CoordinatorSettings(ServiceSettings):
    """Beside what every service has, the platform's only three times."""

    model_config = settings_config("coordinator")

    port: int = 7001
    heartbeat_s: float = Field(default=10.0, gt=0, le=600)  # an abort reaches an agent within this time
    lease_s: float = Field(default=30.0, gt=0, le=3600)  # three heartbeats: two may be lost
    round_deadline_s: float = Field(default=600.0, ge=1, le=7 * 86_400)  # for jobs that name none

"""The coordinator's settings: ``COORDINATOR_…`` in the environment, or files in /run/secrets."""

from pydantic import Field

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

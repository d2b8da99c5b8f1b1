"""What the keys service can be told by its environment (``KEYS_…``)."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from shared.web.settings import ServiceSettings, settings_config


class KeysSettings(ServiceSettings):
    """Beside what all services share."""

    model_config = settings_config("keys")

    port: int = 7003
    federation_name: str = Field("Undersong federation", min_length=1, max_length=64)  # in the authority's certificate
    certificate_days: int = Field(90, ge=1, le=825)  # agents and services rotate when a third is left
    high_water_file: Path | None = None  # none: data_dir/high-water; never restore it with the database
    challenge_s: int = Field(300, ge=10, le=3600)  # time to answer an enrolment challenge

    @property
    def certificate_life(self) -> timedelta:
        """How long a certificate is valid."""
        return timedelta(days=self.certificate_days)

    @property
    def high_water(self) -> Path:
        """The file that tells whether the database is older than what was given out."""
        return self.high_water_file or self.data_dir / "high-water"

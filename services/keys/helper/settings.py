"""What the helper can be told by its environment (``HELPER_…``)."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from shared.web.settings import ServiceSettings, settings_config


class HelperSettings(ServiceSettings):
    """Beside what all services share. Redis is not used."""

    model_config = settings_config("helper")

    port: int = 7005
    keep_s: float = Field(3600.0, gt=0)  # how long a round's keys outlive its deadline: the leader may be away
    high_water_file: Path | None = None  # none: data_dir/high-water; never restore it, or openings, with the database
    sweep_s: float = Field(30.0, gt=0)

    @property
    def high_water(self) -> Path:
        """The file that tells whether the database is older than what was answered."""
        return self.high_water_file or self.data_dir / "high-water"

    @property
    def openings(self) -> Path:
        """The file that remembers what was opened, beside the other one."""
        return self.high_water.with_name("openings")

    @property
    def keep(self) -> timedelta:
        """From a round's deadline to the end of its keys."""
        return timedelta(seconds=self.keep_s)

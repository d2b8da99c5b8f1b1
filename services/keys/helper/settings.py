"""What the helper can be told by its environment (``HELPER_…``)."""

from datetime import timedelta
from pathlib import Path

from pydantic import Field

from undersong.shared.web.settings import ServiceSettings, settings_config


class HelperSettings(ServiceSettings):
    """Beside what all services share. Redis is not used."""

    model_config = settings_config("helper")

    port: int = Field(7005, description="Port that is listened on")
    keep_s: float = Field(
        3600.0,
        gt=0,
        description="Seconds that a round's keys outlive its deadline, in which the aggregator may be away",
    )
    high_water_file: Path | None = Field(
        None,
        description="File that shows whether the database is older than what was answered; never restore it, or "
        "`openings` beside it, with the database. None: `high-water` in `data_dir`",
    )
    sweep_s: float = Field(30.0, gt=0, description="Seconds between two deletions of what is no longer needed")

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

"""What the keys service can be told by its environment (``KEYS_…``)."""

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from undersong.shared.web.settings import ServiceSettings, settings_config


class RoundPartySettings(ServiceSettings):
    """Common to the parties of rounds that the keys' organisations run beside the keys service."""

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


class KeysSettings(ServiceSettings):
    """Beside what all services share."""

    model_config = settings_config("keys")

    port: int = Field(7003, description="Port that is listened on")
    federation_name: str = Field(
        "Undersong federation",
        min_length=1,
        max_length=64,
        description="Name in the certificate of the federation's authority",
    )
    certificate_days: int = Field(
        90,
        ge=1,
        le=825,
        description="Days that a certificate is valid; agents and services renew theirs when a third is left",
    )
    high_water_file: Path | None = Field(
        None,
        description="File that shows whether the database is older than what was given out; never restore it with the "
        "database. None: `high-water` in `data_dir`",
    )
    invitations: Literal["approve", "trust", "refuse"] = Field(
        "approve",
        description="Enrolment tokens for sites that the coordinator asks for: `approve`: no certificate before an "
        "operator approved the site's key; `trust`: as an operator's own, where one organisation runs both services; "
        "`refuse`: none",
    )
    challenge_s: int = Field(300, ge=10, le=3600, description="Seconds to answer an enrolment challenge")

    @property
    def certificate_life(self) -> timedelta:
        """How long a certificate is valid."""
        return timedelta(days=self.certificate_days)

    @property
    def high_water(self) -> Path:
        """The file that tells whether the database is older than what was given out."""
        return self.high_water_file or self.data_dir / "high-water"

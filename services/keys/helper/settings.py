"""What the helper can be told by its environment (``HELPER_…``)."""

from datetime import timedelta

from pydantic import Field

from shared.web.settings import ServiceSettings, settings_config


class HelperSettings(ServiceSettings):
    """Beside what all services share. Redis is not used."""

    model_config = settings_config("helper")

    port: int = 7005
    keep_s: float = Field(3600.0, gt=0)  # how long a round's keys outlive its deadline: the leader may be away
    sweep_s: float = Field(30.0, gt=0)

    @property
    def keep(self) -> timedelta:
        """From a round's deadline to the end of its keys."""
        return timedelta(seconds=self.keep_s)

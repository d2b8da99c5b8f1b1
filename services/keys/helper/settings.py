"""What the helper can be told by its environment (``HELPER_…``)."""

from pydantic import Field

from undersong.services.keys.settings import RoundPartySettings
from undersong.shared.web.settings import settings_config


class HelperSettings(RoundPartySettings):
    """Beside what all services share. Redis is not used."""

    model_config = settings_config("helper")

    port: int = Field(7005, description="Port that is listened on")

"""What a custodian can be told by its environment (``CUSTODIAN_…``)."""

from pydantic import Field

from undersong.services.keys.settings import RoundPartySettings
from undersong.shared.web.settings import settings_config
from undersong.shared.wire.custodian import custodian_service


class CustodianSettings(RoundPartySettings):
    """Beside what all services share. Redis is not used."""

    model_config = settings_config("custodian")

    port: int = Field(7007, description="Port that is listened on")
    number: int = Field(
        1, ge=1, le=7, description="Which of the federation's custodians this is, from 1 on: it is enrolled by it"
    )

    @property
    def index(self) -> int:
        """The custodian's place in a round, from 0 on."""
        return self.number - 1

    @property
    def service(self) -> str:
        """The name in its certificate."""
        return custodian_service(self.index)

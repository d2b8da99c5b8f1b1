"""What the registry can be told by its environment (``REGISTRY_…``)."""

from datetime import timedelta

from pydantic import Field

from undersong.shared.web.blob_settings import BlobSettings
from undersong.shared.web.settings import settings_config


class RegistrySettings(BlobSettings):
    """Beside what all services share."""

    model_config = settings_config("registry")

    port: int = Field(7004, description="Port that is listened on")
    max_content_bytes: int = Field(
        8 << 30,
        ge=1 << 10,
        description="Largest content of a version in bytes; 8 GiB are two thousand million float32 parameters",
    )
    keep_unused_hours: float = Field(
        24, gt=0, description="Hours after which uploaded content without a version is deleted"
    )

    @property
    def keep_unused(self) -> timedelta:
        """How long content without a version is kept."""
        return timedelta(hours=self.keep_unused_hours)

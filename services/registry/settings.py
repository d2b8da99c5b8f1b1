"""What the registry can be told by its environment (``REGISTRY_…``)."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from pydantic import Field

from undersong.shared.web.settings import ServiceSettings, settings_config


class RegistrySettings(ServiceSettings):
    """Beside what all services share."""

    model_config = settings_config("registry")

    port: int = Field(7004, description="Port that is listened on")
    blob_url: str | None = Field(
        None,
        description="Where content is stored: s3://bucket/prefix for several machines; none: the folder `blobs` in "
        "`data_dir`",
    )
    max_content_bytes: int = Field(
        8 << 30,
        ge=1 << 10,
        description="Largest content of a version in bytes; 8 GiB are two thousand million float32 parameters",
    )
    keep_unused_hours: float = Field(
        24, gt=0, description="Hours after which uploaded content without a version is deleted"
    )

    @property
    def blobs(self) -> str:
        """Where content is kept."""
        return self.blob_url or f"file://{self.data_dir.absolute() / 'blobs'}"

    @property
    def keep_unused(self) -> timedelta:
        """How long content without a version is kept."""
        return timedelta(hours=self.keep_unused_hours)

    @property
    def volumes(self) -> Mapping[str, Path]:
        """The folders whose disks may fill."""
        blobs = {"blobs": Path(self.blobs.removeprefix("file://"))} if self.blobs.startswith("file://") else {}
        return {**super().volumes, **blobs}

"""What the aggregator is told by its environment: ``AGGREGATOR_<FIELD>``."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from shared.web.settings import ServiceSettings, settings_config


class AggregatorSettings(ServiceSettings):
    """The aggregator's settings; read once, at start."""

    model_config = settings_config("aggregator")

    port: int = 7002
    helper_url: str = "http://127.0.0.1:7005"  # the second server of engine twoserver
    blob_url: str | None = None  # none: the folder `blobs` in data_dir; s3://bucket/prefix for several machines
    max_update_bytes: int = Field(default=2 << 30, gt=0)  # where neither the model nor a first update tells the length
    worker_lease_s: float = Field(default=10.0, gt=0)  # how soon another worker takes a dead one's round
    sweep_s: float = Field(default=2.0, gt=0)
    finish_s: float = Field(default=900.0, gt=0)  # from a round's deadline to its publication; the registry may be away
    step_s: float = Field(default=10.0, gt=0)  # how long a step after the upload waits for sites that do not answer
    share_updates: int = Field(default=16, ge=2)  # so many must wait before a worker lets others fold some of them,
    share_bytes: int = Field(default=1 << 30, ge=0)  # and so much, or sharing takes longer than it saves
    keep_blobs_s: float = Field(default=3600.0, gt=0)  # the age at which a file that no round knows is deleted

    @property
    def blobs(self) -> str:
        """Where bodies and models are stored."""
        return self.blob_url or f"file://{(self.data_dir / 'blobs').absolute()}"

    @property
    def volumes(self) -> Mapping[str, Path]:
        """The folders whose disks may fill."""
        blobs = {"blobs": Path(self.blobs.removeprefix("file://"))} if self.blobs.startswith("file://") else {}
        return {**super().volumes, **blobs}

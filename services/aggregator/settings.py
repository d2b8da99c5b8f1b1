"""What the aggregator is told by its environment: ``AGGREGATOR_<FIELD>``."""

from pydantic import Field

from undersong.shared.web.blob_settings import BlobSettings
from undersong.shared.web.settings import settings_config


class AggregatorSettings(BlobSettings):
    """The aggregator's settings; read once, at start."""

    model_config = settings_config("aggregator")

    port: int = Field(7002, description="Port that is listened on")
    helper_url: str = Field(
        "http://127.0.0.1:7005", description="Base address of the helper, the second server of engines that have one"
    )
    custodian_urls: str = Field(
        "",
        description="Base addresses of the custodians of engines that have them, in the order of their numbers, with "
        "spaces between; empty: none",
    )
    max_update_bytes: int = Field(
        default=2 << 30,
        gt=0,
        description="Largest update in bytes where neither the model nor a first update tells the length",
    )
    worker_lease_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds after which another worker takes the round of one that gives no sign of life",
    )
    sweep_s: float = Field(default=2.0, gt=0, description="Seconds between two looks at deadlines")
    finish_s: float = Field(
        default=900.0,
        gt=0,
        description="Seconds from a round's deadline to its publication, in which the registry may be away",
    )
    step_s: float = Field(
        default=10.0, gt=0, description="Seconds that a step after the upload waits for sites that do not answer"
    )
    share_updates: int = Field(
        default=16, ge=2, description="Updates that must wait before a worker lets others fold a part of them"
    )
    share_bytes: int = Field(
        default=1 << 30,
        ge=0,
        description="Bytes of updates that must wait as well: for less, sharing takes longer than it saves",
    )
    keep_blobs_s: float = Field(
        default=3600.0, gt=0, description="Age in seconds at which a file that belongs to no round is deleted"
    )

"""What a service that stores blobs is told of its store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from undersong.shared.blobs.bucket import BucketOptions, Encryption, read_credentials
from undersong.shared.web.settings import ServiceSettings


class BlobSettings(ServiceSettings):
    """Common to the services with a blob store."""

    blob_url: str | None = Field(
        None,
        description="Where models, and in the aggregator updates, are stored: s3://bucket/prefix for several machines; "
        "none: the folder `blobs` in `data_dir`",
    )
    blob_endpoint: str | None = Field(
        None, description="Base address of an S3 server that is not Amazon's; none: AWS_ENDPOINT_URL, or Amazon's"
    )
    blob_region: str | None = Field(None, description="The bucket's region; none: AWS_REGION, or us-east-1")
    blob_credentials_file: Path | None = Field(
        None,
        description="File in the form of ~/.aws/credentials, section [default]; read again within 15 minutes, so keys "
        "can be exchanged while the service runs. None: AWS_… in the environment, or the machine's role",
    )
    blob_encryption: Encryption | None = Field(
        None,
        description="Encryption at rest that is asked of the object store for each object: AES256 or aws:kms; none: "
        "what the bucket does by itself",
    )
    blob_kms_key: str | None = Field(None, description="Key of aws:kms; none: the account's own")

    @property
    def blobs(self) -> str:
        """The store's URL."""
        return self.blob_url or f"file://{(self.data_dir / 'blobs').absolute()}"

    @property
    def bucket(self) -> BucketOptions:
        """How the store is reached, where it is a bucket."""
        return BucketOptions(
            endpoint=self.blob_endpoint,
            region=self.blob_region,
            credentials_file=self.blob_credentials_file,
            encryption=self.blob_encryption,
            kms_key=self.blob_kms_key,
        )

    @property
    def volumes(self) -> Mapping[str, Path]:
        """The folders whose disks may fill."""
        blobs = {"blobs": Path(self.blobs.removeprefix("file://"))} if self.blobs.startswith("file://") else {}
        return {**super().volumes, **blobs}

    @model_validator(mode="after")
    def _a_bucket_can_be_reached(self) -> Self:
        if self.bucket.given and not self.blobs.startswith("s3://"):
            raise ValueError("blob_endpoint, blob_region, blob_credentials_file, blob_encryption and blob_kms_key are "
                             "for a blob_url that begins with s3://")  # fmt: skip
        if self.blob_endpoint is not None and not self.blob_endpoint.startswith(("http://", "https://")):
            raise ValueError("blob_endpoint must start with http:// or https://")
        if self.blob_kms_key is not None and self.blob_encryption != "aws:kms":
            raise ValueError("blob_kms_key needs blob_encryption aws:kms")
        if self.blob_credentials_file is not None:
            try:
                read_credentials(self.blob_credentials_file)
            except OSError as error:
                raise ValueError(f"blob_credentials_file cannot be read: {error}") from None
        return self

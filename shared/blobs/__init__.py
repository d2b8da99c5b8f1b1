"""Content-addressed storage for models and updates: a folder or an S3-compatible bucket."""

from undersong.shared.blobs.blob import (
    Blob,
    BlobChanged,
    BlobCorrupt,
    BlobMissing,
    BlobTooLarge,
    DigestMismatch,
    StoreIgnoresConditions,
    StoreUnavailable,
)
from undersong.shared.blobs.bucket import BucketOptions
from undersong.shared.blobs.store import BlobStore
from undersong.shared.errors import StorageFull

__all__ = [
    "Blob",
    "BlobChanged",
    "BlobCorrupt",
    "BlobMissing",
    "BlobStore",
    "BlobTooLarge",
    "BucketOptions",
    "DigestMismatch",
    "StorageFull",
    "StoreIgnoresConditions",
    "StoreUnavailable",
]

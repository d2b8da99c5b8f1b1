"""What every key, share and signature of a round of pairwise masks is bound to."""

from typing import Final

from undersong.shared.secagg.transcript import tagged_hash

SUITE: Final = "undersong-pairwise-1"


def context_zero(manifest_digest: bytes, model_digest: bytes, attempt: int) -> bytes:
    """ctx0: binds the manifest and the model as this client received it."""
    return tagged_hash("ctx0", SUITE.encode(), manifest_digest, model_digest, attempt.to_bytes(4, "little"))


def context(ctx0: bytes, roster_root: bytes, keys_nonce: bytes) -> bytes:
    """ctx: binds the frozen roster and the nonce that the keys service had committed to."""
    return tagged_hash("ctx", ctx0, roster_root, keys_nonce)

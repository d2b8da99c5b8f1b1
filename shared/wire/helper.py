"""What the helper of a round of two servers signs: its key for the round, and which reports it accepted.

Both statements are over the manifest's digest, so a signature is good for one attempt at one round.
"""

from typing import Final

from undersong.shared.ids import Digest

HELPER: Final = "helper"
NORM_PROOFS: Final = "norm_equality_proofs"
"""In a training round's `engine_params`: with 2 a false norm passes with probability 2**-106, with 1 with 2**-53."""
KEY_CONTEXT: Final = b"undersong/helper-key/1\0"
ACCEPTED_CONTEXT: Final = b"undersong/accepted/1\0"


def key_statement(manifest_digest: Digest, public_key: bytes) -> bytes:
    """Under which HPKE key (X25519, 32 bytes) the helper takes its shares of this round."""
    return KEY_CONTEXT + bytes.fromhex(manifest_digest) + public_key


def accepted_statement(manifest_digest: Digest, members: bytes, root: bytes, share_digest: bytes) -> bytes:
    """Whose reports the helper accepted, and the digest of the one aggregate share that it gives for them.

    members: a bitmap over the manifest's cohort; root: over the bodies of those sites
    (`undersong.shared.secagg.transcript.body_root`); share_digest: SHA-256 of the aggregate share.
    """
    return ACCEPTED_CONTEXT + bytes.fromhex(manifest_digest) + root + share_digest + members

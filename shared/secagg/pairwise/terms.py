"""What a signed manifest fixes for the engine. Apart from the engine, so that keys reads it without its kernels."""

from undersong.shared.errors import Invalid
from undersong.shared.secagg.pairwise.contexts import context_zero
from undersong.shared.secagg.pairwise.roster import Terms
from undersong.shared.wire.manifest import RoundManifest


def terms(manifest: RoundManifest, witness: bytes) -> Terms:
    """Return what the manifest fixes for the engine; raises Invalid where a parameter is missing or out of range."""
    params = manifest.engine_params
    corrupt, dropout, quorum = params.get("corrupt"), params.get("dropout"), params.get("quorum")
    commitment = params.get("nonce_commitment")
    if manifest.encoding is None or not isinstance(quorum, bool) or not isinstance(commitment, str):
        raise Invalid("pairwise needs an encoding and engine_params quorum and nonce_commitment")
    if not isinstance(corrupt, int | float) or not isinstance(dropout, int | float):
        raise Invalid("pairwise needs engine_params corrupt and dropout")
    if not (0 <= corrupt < 1 and 0 <= dropout < 1 and len(commitment) == 64):
        raise Invalid(
            "engine_params corrupt and dropout are shares below one, nonce_commitment 32 bytes in hexadecimal"
        )
    digest = bytes.fromhex(manifest.digest())
    model = bytes(32) if manifest.model is None else bytes.fromhex(manifest.model.digest)
    return Terms(
        ctx0=context_zero(digest, model, manifest.attempt),
        manifest_digest=digest,
        attempt=manifest.attempt,
        min_cohort=manifest.min_cohort,
        corrupt=float(corrupt),
        dropout=float(dropout),
        quorum=quorum,
        nonce_commitment=bytes.fromhex(commitment),
        witness_key=witness,
        modulus_bits=manifest.encoding.modulus_bits,
    )

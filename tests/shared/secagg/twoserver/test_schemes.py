"""One or two proofs of norm equality in a report, as the manifest says: both hold, and neither passes for the other."""

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from tests.services.aggregator.two_servers import Liar
from tests.shared.wire.manifests import manifest as make_manifest
from undersong.shared.errors import Refusal
from undersong.shared.fields.sums import add_field
from undersong.shared.secagg.engine import UpdateRefused
from undersong.shared.secagg.quantise import plan_norm
from undersong.shared.secagg.twoserver.roles import HELPER, LEADER
from undersong.shared.secagg.twoserver.schemes import Proved, norm_bound, norm_proofs_of, scheme_for
from undersong.shared.vdaf.errors import VdafMalformed, VdafRejected
from undersong.shared.vdaf.field64 import FIELD64
from undersong.shared.wire.helper import NORM_PROOFS
from undersong.shared.wire.manifest import RoundKind, RoundManifest

LENGTH, CTX = 40, b"a round"
ENCODING = plan_norm(summands=4, clip_norm=1.0)
KEY, NONCE = bytes(range(32)), bytes(range(16))
VECTOR = (np.arange(LENGTH) - 20) * 1000
FROZEN = {
    1: "58f6612d477bd72d0bac703e764d6b22",
    2: "15de0ab21fa4bf5d1c8ca709bdd14bb5",
}
"""SHA-256 (its first 16 bytes) over public share, input shares, verifier shares and message, with fixed randomness."""


def manifest(proofs: object = None) -> RoundManifest:
    params = {} if proofs is None else {NORM_PROOFS: proofs}
    return make_manifest(kind=RoundKind.TRAIN, engine="twoserver", engine_params=params, encoding=ENCODING)


def stream(seed: bytes) -> Callable[[int], bytes]:
    """Repeatable randomness."""
    return lambda size: hashlib.shake_256(seed).digest(size)


def judged(scheme: Proved, shares: tuple[bytes, bytes, bytes]) -> tuple[bytes, list[bytes]]:
    public, leader, helper = shares
    states, said = [], []
    for role, share in ((LEADER, leader), (HELPER, helper)):
        state, verifier = scheme.begin(KEY, CTX, role, NONCE, public, share)
        states.append(state)
        said.append(verifier)
    message = scheme.message(CTX, said)
    for state in states:
        scheme.finish(CTX, state, message)
    return message, said


@pytest.mark.parametrize("proofs", [1, 2])
def test_an_honest_report_holds_and_its_bytes_never_change(proofs: int) -> None:
    scheme = scheme_for(manifest(proofs), LENGTH)
    assert isinstance(scheme, Proved)
    shares = scheme.shard(CTX, VECTOR, NONCE, stream(b"client"))
    message, said = judged(scheme, shares)
    total = scheme.out_share(CTX, LEADER, NONCE, shares[1]).copy()
    add_field(total, scheme.out_share(CTX, HELPER, NONCE, shares[2]), out=total)
    assert np.array_equal(total.astype(object) % FIELD64.modulus, VECTOR.astype(object) % FIELD64.modulus)
    digest = hashlib.sha256(b"".join([*shares, *said, message])).hexdigest()
    assert digest[:32] == FROZEN[proofs]


def test_without_a_number_in_the_manifest_there_is_one_proof() -> None:
    assert norm_proofs_of(manifest()) == 1
    one, two = (scheme_for(manifest(proofs), LENGTH).leader_size for proofs in (1, 2))
    assert scheme_for(manifest(), LENGTH).leader_size == one < two


@pytest.mark.parametrize("proofs", [0, 3, -1, True, 1.5, "2", None, [2]])
def test_another_number_of_proofs_is_refused(proofs: object) -> None:
    wrong = manifest().model_copy(update={"engine_params": {NORM_PROOFS: proofs}})
    with pytest.raises(UpdateRefused, match="1 or 2"):
        scheme_for(wrong, LENGTH)


@pytest.mark.parametrize(("made", "asked"), [(1, 2), (2, 1)])
def test_a_report_of_the_other_number_is_refused(made: int, asked: int) -> None:
    shares = scheme_for(manifest(made), LENGTH).shard(CTX, VECTOR, NONCE, stream(b"client"))
    scheme = scheme_for(manifest(asked), LENGTH)
    with pytest.raises(VdafMalformed):
        scheme.begin(KEY, CTX, LEADER, NONCE, shares[0], shares[1])
    assert isinstance(scheme, Proved)
    public, verifier = shares[0], scheme.begin(KEY, CTX, HELPER, NONCE, shares[0], shares[2])[1]
    first = scheme_for(manifest(made), LENGTH).begin(KEY, CTX, LEADER, NONCE, public, shares[1])[1]
    with pytest.raises(VdafMalformed):
        scheme.message(CTX, [first, verifier])


@pytest.mark.parametrize("proofs", [1, 2])
def test_a_norm_beyond_the_bound_and_each_changed_proof_are_refused(proofs: int) -> None:
    scheme = scheme_for(manifest(proofs), LENGTH)
    assert isinstance(scheme, Proved)
    bound = norm_bound(ENCODING, LENGTH)
    liar = Liar.for_norm(float(bound), LENGTH, num_frac_bits=0, num_proofs_norm_equality=proofs)
    far = np.zeros(LENGTH, np.int64)
    far[0] = bound + 1
    public, (leader, helper) = liar.shard_integers(CTX, far, NONCE, stream(b"liar")(liar.RAND_SIZE))
    with pytest.raises(VdafRejected):
        judged(scheme, (public, leader, helper))
    shares = scheme.shard(CTX, VECTOR, NONCE, stream(b"client"))
    pine = scheme._pine
    head, size = pine.parameters.measurement_length * 8, pine._norm.proof_length * 8
    for place in range(proofs):  # the proofs of norm equality come first
        changed = bytearray(shares[1])
        at = head + place * size
        changed[at : at + 8] = ((int.from_bytes(changed[at : at + 8], "little") + 1) % scheme.modulus).to_bytes(
            8, "little"
        )
        with pytest.raises(VdafRejected, match="of the norm"):
            judged(scheme, (shares[0], bytes(changed), shares[2]))


@pytest.mark.parametrize("proofs", [1, 2])
def test_parts_of_another_length_are_refused(proofs: int) -> None:
    scheme = scheme_for(manifest(proofs), LENGTH)
    public, leader, helper = shares = scheme.shard(CTX, VECTOR, NONCE, stream(b"client"))
    message, said = judged(scheme, shares)  # type: ignore[arg-type]
    state, _ = scheme.begin(KEY, CTX, LEADER, NONCE, public, leader)
    for resize in (lambda data: data[:-1], lambda data: data + b"\0", lambda _: b"", lambda data: data + data):
        for begin in (
            partial(scheme.begin, resize(KEY), CTX, LEADER, NONCE, public, leader),
            partial(scheme.begin, KEY, CTX, LEADER, resize(NONCE), public, leader),
            partial(scheme.begin, KEY, CTX, LEADER, NONCE, resize(public), leader),
            partial(scheme.begin, KEY, CTX, LEADER, NONCE, public, resize(leader)),
            partial(scheme.begin, KEY, CTX, HELPER, NONCE, public, resize(helper)),
            partial(scheme.message, CTX, [resize(said[0]), said[1]]),
            partial(scheme.message, CTX, [said[0], resize(said[1])]),
            partial(scheme.message, CTX, said[:1]),
            partial(scheme.message, CTX, [*said, said[0]]),
            partial(scheme.finish, CTX, state, resize(message)),
        ):
            with pytest.raises(Refusal):
                begin()

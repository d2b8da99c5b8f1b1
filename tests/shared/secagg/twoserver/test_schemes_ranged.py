"""Counts of a statistics round of two servers: proved to be in range, or refused."""

import os

import numpy as np
import pytest

from undersong.shared.fields.sums import add_field
from undersong.shared.secagg.payload import opened_sums, sums_payload
from undersong.shared.secagg.quantise import OutOfRange, decode_counts, encode_counts, plan_counts, plan_sums
from undersong.shared.secagg.twoserver.engine import vector_of
from undersong.shared.secagg.twoserver.roles import HELPER, LEADER
from undersong.shared.secagg.twoserver.schemes import Additive, Integers, Ranged, SplitScheme, scheme_for
from undersong.shared.vdaf.errors import InputOutOfRange, VdafRejected
from undersong.shared.wire.manifest import RoundKind, RoundManifest

MOST = 2**16 - 1
CTX = b"round"


def manifest(**changes: object) -> RoundManifest:
    return RoundManifest.model_validate(
        {
            "federation_id": "fed_1",
            "job_id": "job_1",
            "round_id": "rnd_1",
            "number": 0,
            "attempt": 1,
            "kind": "statistics",
            "engine": "twoserver",
            "recipe": {"name": "statistics", "digest": "ab" * 32},
            "data": {"dataset": "heart"},
            "encoding": plan_counts(summands=3, most=MOST),
            "cohort": ["site_a", "site_b", "site_c"],
            "min_cohort": 3,
            "target": 3,
            "strategy": {"name": "sum"},
            "seed": 1,
            "deadline_s": 60.0,
        }
        | changes
    )


def verified(scheme: SplitScheme, vector: Integers, spoil: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Both servers' out shares of a report that both accept; `spoil` adds to one number of the leader's share."""
    key, nonce = os.urandom(32), os.urandom(16)
    public, leader, helper = scheme.shard(CTX, vector, nonce, os.urandom)
    if spoil is not None:
        words = np.frombuffer(leader, "<u8").copy() if len(leader) % 8 == 0 else None
        assert words is not None
        words[spoil] = add_field(words[spoil], np.uint64(2))
        leader = words.tobytes()
    shares = {LEADER: leader, HELPER: helper}
    begun = {role: scheme.begin(key, CTX, role, nonce, public, share) for role, share in shares.items()}
    message = scheme.message(CTX, [begun[LEADER][1], begun[HELPER][1]])
    for state, _ in begun.values():
        scheme.finish(CTX, state, message)
    found = [scheme.out_share(CTX, role, nonce, share) for role, share in shares.items()]
    return found[0], found[1]


def test_counts_are_proved_and_their_sum_is_right() -> None:
    plan = manifest()
    sites = [np.array([1.0, 200.0, 0.0, MOST, 17.0]), np.array([1.0, 3.0, 5.0, 0.0, 2.0])]
    scheme = scheme_for(plan, 5)
    assert isinstance(scheme, Ranged)
    total = np.zeros(5, np.uint64)
    for counts in sites:
        vector = vector_of(plan, sums_payload(plan, counts))
        for share in verified(scheme, vector):
            add_field(total, np.ascontiguousarray(share, np.uint64), out=total)
    assert opened_sums(plan, total).tolist() == (sites[0] + sites[1]).tolist()


@pytest.mark.parametrize("place", [0, 17, 79])
def test_a_share_that_hides_another_number_is_refused(place: int) -> None:
    with pytest.raises(VdafRejected):
        verified(Ranged(MOST, 5), np.arange(5), spoil=place)


def test_numbers_out_of_range_do_not_even_leave() -> None:
    encoding = plan_counts(summands=3, most=MOST)
    for wrong in (-1.0, MOST + 1.0, 0.5, np.nan):
        with pytest.raises(OutOfRange):
            encode_counts(np.array([1.0, wrong]), encoding)
    with pytest.raises(InputOutOfRange):
        Ranged(MOST, 1).shard(CTX, np.array([MOST + 1]), bytes(16), os.urandom)
    with pytest.raises(OutOfRange):
        decode_counts(np.array([3 * MOST + 1], np.uint64), encoding)


def test_other_sums_go_without_a_proof() -> None:
    assert isinstance(scheme_for(manifest(encoding=plan_sums(summands=3)), 4), Additive)
    evaluation = manifest(kind=RoundKind.EVALUATE, model={"version_id": "ver_1", "digest": "ab" * 32}, model_id="mdl_1")
    assert isinstance(scheme_for(evaluation, 4), Additive)

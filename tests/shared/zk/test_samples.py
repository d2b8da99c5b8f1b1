"""A committed sample count is good for one site, data set and set of limits of one job, in all of its rounds."""

import pytest

from tests.services.aggregator.conftest import make_manifest
from undersong.shared.ids import Digest, SiteId, VersionId
from undersong.shared.wire.manifest import ModelRef, RoundKind, RoundManifest
from undersong.shared.zk.group import IdentityRefused
from undersong.shared.zk.range_proof import OutsideRange
from undersong.shared.zk.samples import Committed, takes_commitments, verify
from undersong.shared.zk.transcript import ProofInvalid

MODEL = ModelRef(version_id=VersionId("ver_01k5z0000000000000000000aa"), digest=Digest("0" * 64))
SITE = SiteId("site_00")
MANIFEST = make_manifest(model=MODEL)


def limited(max_weight: int) -> RoundManifest:
    assert MANIFEST.encoding is not None
    return MANIFEST.model_copy(update={"encoding": MANIFEST.encoding.model_copy(update={"max_weight": max_weight})})


@pytest.mark.parametrize(("max_weight", "size"), [(2, 160), (4, 288), (256, 1056), (300, 32 + 2 * 128 * 9)])
def test_the_whole_range_is_accepted(max_weight: int, size: int) -> None:
    plan = limited(max_weight)
    for weight in (1, max_weight):
        message = Committed.make(plan, SITE, weight).message
        verify(plan, SITE, message)
        assert len(message) == size
    for weight in (0, max_weight + 1):
        with pytest.raises(OutsideRange):
            Committed.make(plan, SITE, weight)


def test_it_is_bound_to_its_job_and_site_and_to_no_round() -> None:
    message = Committed.make(MANIFEST, SITE, 3).message
    verify(make_manifest(number=7, model=MODEL), SITE, message)
    other_data = MANIFEST.data.model_copy(update={"dataset": "other"})
    for changes in ({"job_id": "job_other"}, {"federation_id": "fed_b"}, {"weight_unit": 2}, {"data": other_data}):
        with pytest.raises(ProofInvalid):
            verify(MANIFEST.model_copy(update=changes), SITE, message)
    for plan, site in ((MANIFEST, SiteId("site_01")), (limited(3), SITE), (limited(8), SITE)):
        with pytest.raises(ProofInvalid):
            verify(plan, site, message)
    with pytest.raises(IdentityRefused):
        verify(MANIFEST, SITE, bytes(32) + message[32:])


def test_two_commitments_to_one_count_do_not_look_alike() -> None:
    """The count is hidden: the same one twice cannot be told from two different ones."""
    messages = {Committed.make(MANIFEST, SITE, 3).message[:32] for _ in range(3)}
    assert len(messages) == 3


def test_only_weighed_training_takes_commitments() -> None:
    assert takes_commitments(MANIFEST)
    assert not takes_commitments(limited(1))
    assert not takes_commitments(make_manifest(RoundKind.STATISTICS))
    assert not takes_commitments(make_manifest(RoundKind.INITIALISE))

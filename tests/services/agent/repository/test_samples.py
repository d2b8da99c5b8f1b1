"""The agent commits once for a job, before anything leaves, and notices when its data are others."""

from pathlib import Path

import pytest

from tests.services.aggregator.conftest import make_manifest
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.repository.samples import Samples
from undersong.services.agent.repository.state import AgentState
from undersong.shared.ids import Digest, SiteId, VersionId
from undersong.shared.wire.manifest import ModelRef, RoundKind
from undersong.shared.zk.samples import verify

SITE = SiteId("site_00")
MODEL = ModelRef(version_id=VersionId("ver_01k5z0000000000000000000aa"), digest=Digest("0" * 64))


def test_one_commitment_for_all_rounds_of_a_job(tmp_path: Path) -> None:
    manifest, state = make_manifest(model=MODEL), AgentState(tmp_path)
    message = Samples(state.store).message(manifest, SITE, 3)
    assert message is not None
    verify(manifest, SITE, message)
    assert state.committed_samples(manifest.job_id) == message[:32].hex()
    state.close()
    state = AgentState(tmp_path)  # after a restart
    samples = Samples(state.store)
    assert samples.message(make_manifest(model=MODEL, number=2), SITE, 3) == message
    with pytest.raises(TaskFailure, match="another number of samples") as refused:
        samples.message(make_manifest(model=MODEL, number=3), SITE, 2)
    assert refused.value.code == "sample-count-changed"
    with pytest.raises(TaskFailure) as refused:
        samples.message(make_manifest(model=MODEL, number=3, weight_unit=2), SITE, 6)
    assert refused.value.code == "sample-limits-changed"
    other = samples.message(make_manifest(model=MODEL, job_id="job_other"), SITE, 2)
    assert other is not None
    assert other != message
    assert samples.message(make_manifest(RoundKind.STATISTICS), SITE, 3) is None
    assert state.committed_samples("job_unknown") is None
    state.close()

"""Whole rounds: a real agent process against a platform that really seals, signs and checks."""

import numpy as np
import pytest

pytestmark = pytest.mark.process


def test_a_training_round_ends_with_the_sealed_change_of_the_model(platform, agent):
    """What the aggregator opens is what the recipe added; the coordinator hears the same digest."""
    version = platform.add_model([1.0, 2.0, 3.0, 4.0])
    manifest = platform.manifest(agent.recipe, model_ref=version, params={"add": 0.5})
    task = platform.offer(manifest)
    agent.start()
    platform.wait(lambda: platform.ended)
    opened = platform.opened(manifest.round_id)
    np.testing.assert_allclose(opened.mean, 0.5, atol=1e-5)
    assert opened.weight == 10
    assert opened.loss == pytest.approx(0.25, abs=1e-3)
    assert platform.ended == [(f"completions:{task}", platform.ended[0][1])]
    assert platform.ended[0][1]["digest"] == agent.rows()[0][2]
    platform.wait(lambda: platform.requests[-1][1] == "/v1/tasks/leases")
    assert [row[1] for row in agent.rows()] == ["answered"]
    assert agent.outbox() == {}


@pytest.mark.parametrize("kind", ["initialise", "statistics", "evaluate"])
def test_every_kind_of_round_is_answered(platform, agent, kind):
    """Sums and first models go the same way as training."""
    version = platform.add_model([0.0] * 4)
    manifest = platform.manifest(agent.recipe, kind=kind, model_ref=version)
    platform.offer(manifest)
    agent.start()
    platform.wait(lambda: platform.ended)
    assert platform.ended[0][0].startswith("completions:"), platform.ended
    assert len(platform.bodies[manifest.round_id]) == 1

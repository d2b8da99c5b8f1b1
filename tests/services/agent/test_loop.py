"""Whole rounds: a real agent process against a platform that really seals, signs and checks."""

import numpy as np
import pytest

pytestmark = pytest.mark.process


def test_a_training_round_ends_with_the_sealed_change_of_the_model(platform, agent):
    """What the aggregator opens is what the recipe added; the coordinator hears the same digest."""
    version = platform.add_model([1.0, 2.0, 3.0, 4.0])
    manifest = platform.manifest(agent.recipe, model_ref=version, params={"add": 0.5})
    task = platform.offer(manifest)
    agent.start(alone=True)  # as a site does
    platform.wait(lambda: platform.ended)
    opened = platform.opened(manifest.round_id)
    np.testing.assert_allclose(opened.mean, 0.5, atol=1e-5)
    assert opened.weight == 10
    assert opened.loss == pytest.approx(0.25, abs=1e-3)
    assert platform.ended == [(f"completions:{task}", platform.ended[0][1])]
    assert platform.ended[0][1]["digest"] == agent.rows()[0][2]
    platform.wait(lambda: platform.requests[-1][1] == "/v1/tasks/leases")
    assert [row[1] for row in agent.rows()] == ["answered"]
    assert set(agent.outbox()) == {f"{agent.rows()[0][2]}.body"}  # kept until the round is over


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


def test_bytes_that_the_platform_lost_are_sent_again(platform, agent):
    """Handed the task of an answered round again, the agent sends the same bytes; it has them until the next round."""
    version = platform.add_model([0.0] * 4)
    manifest = platform.manifest(agent.recipe, model_ref=version)
    platform.offer(manifest)
    agent.start()
    platform.wait(lambda: len(platform.ended) == 1)
    platform.offer(manifest)
    platform.wait(lambda: len(platform.ended) == 2)
    first, again = platform.bodies[manifest.round_id]
    assert first == again
    assert platform.ended[0][1]["digest"] == platform.ended[1][1]["digest"]
    platform.offer(platform.manifest(agent.recipe, model_ref=version, job_id=manifest.job_id, number=2))
    platform.wait(lambda: len(platform.ended) == 3)
    assert set(agent.outbox()) == {f"{platform.ended[2][1]['digest']}.body"}

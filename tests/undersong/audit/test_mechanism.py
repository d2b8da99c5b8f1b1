"""The audit of a round's noise: the real sampler keeps every claim, a sampler with half the noise keeps none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.effort import also, examples
from tests.shared.wire.manifests import manifest
from undersong.audit import mechanism
from undersong.audit.findings import Verdict, verdict_of
from undersong.shared.privacy import noise as sampler
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.secagg.private import event_of, plan_noisy
from undersong.shared.secagg.quantise import plan_norm
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.privacy import PrivacyTerms

LENGTH = 30
MODELS = [("server", "twoserver"), ("distributed", "pairwise"), *also(("local", "pairwise"))]


def private(model: str, engine: str, noise: float, rounds: int = 1, **changes: Any) -> RoundManifest:
    """A training round whose claim is exactly what its noise costs."""
    given = {"model": model, "unit": "site", "noise_multiplier": noise, "delta": 1e-6, "rounds": rounds, "min_sites": 2}
    terms = PrivacyTerms.model_validate(given | {"epsilon": 1.0})
    encoding = (
        plan_norm(summands=3, clip_norm=1.0)
        if model == "server"
        else plan_noisy(summands=3, clip_norm=1.0, modulus_bits=32, terms=terms)
    )
    made = manifest(engine=engine, privacy=terms, encoding=encoding)
    event = event_of(made, LENGTH)
    assert event is not None
    claimed = terms.model_copy(update={"epsilon": epsilon_of([event] * rounds, terms.delta)} | changes)
    return made.model_copy(update={"privacy": claimed})


@pytest.fixture
def halved(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def halve() -> None:
        real = sampler.add_discrete_gaussian
        monkeypatch.setattr(sampler, "add_discrete_gaussian", lambda out, sigma, key: real(out, sigma / 2, key))

    return halve


@pytest.mark.parametrize(("model", "engine"), MODELS)
@pytest.mark.parametrize(("noise", "rounds"), [(1.2, 1), *also((2.0, 3), (5.0, 1), (10.0, 50))])
def test_half_the_noise_breaks_the_claim(
    model: str, engine: str, noise: float, rounds: int, halved: Callable[[], None]
) -> None:
    asked = private(model, engine, noise, rounds)
    seen: list[float] = []
    honest = mechanism.audit_mechanism(asked, LENGTH, seen.append)
    assert honest is not None
    assert verdict_of([honest]) is Verdict.NOT_REFUTED
    assert 0.2 * asked.privacy.epsilon < honest.epsilon_lower_bound <= asked.privacy.epsilon
    assert honest.figures["accounted_epsilon"] == pytest.approx(asked.privacy.epsilon)
    assert seen == [(number + 1) / rounds for number in range(rounds)]
    halved()
    found = mechanism.audit_mechanism(asked, LENGTH, seen.append)
    assert found is not None
    assert (found.broken, verdict_of([honest, found])) == (True, Verdict.CLAIM_BROKEN)
    assert "of epsilon" not in found.sentence
    assert found.document()["claim"] == {"epsilon": asked.privacy.epsilon, "delta": 1e-6, "unit": "site"}


def test_a_claim_smaller_than_its_noise_costs_is_broken() -> None:
    """The sampler is right, and the epsilon in the manifest is not."""
    found = mechanism.audit_mechanism(private("server", "twoserver", 1.0, epsilon=1.0), LENGTH, lambda _: None)
    assert found is not None
    assert found.broken


def test_a_claim_too_large_to_be_refuted_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "MOST_CANARIES", 1000)
    found = mechanism.audit_mechanism(private("server", "twoserver", 0.5), LENGTH, lambda _: None)
    assert found is not None
    assert not found.broken
    assert "could not be refuted even with half the noise" in found.sentence


def test_rounds_without_noise_of_sites_or_servers_have_nothing_to_audit() -> None:
    exact = manifest()
    record = private("server", "twoserver", 2.0)
    steps = {"count": 5, "probability": 0.1, "clip_norm": 1.0}
    inside = {"model": "record", "unit": "record", "steps": steps}
    own = PrivacyTerms.model_validate(record.privacy.model_dump() | inside)
    for asked in (
        exact,
        exact.model_copy(update={"kind": RoundKind.EVALUATE}),
        record.model_copy(update={"privacy": own}),
    ):
        assert mechanism.audit_mechanism(asked, LENGTH, lambda _: None) is None


def test_honest_noise_is_rarely_above_its_claim_when_the_claim_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "MOST_CANARIES", 10_000)
    asked = private("distributed", "pairwise", 2.0)
    seeds = examples(100)
    bounds = [mechanism.audit_mechanism(asked, LENGTH, lambda _: None) for _ in range(seeds)]
    assert sum(bound.broken for bound in bounds if bound is not None) <= 0.05 * seeds
    assert np.std([bound.epsilon_lower_bound for bound in bounds if bound is not None]) > 0

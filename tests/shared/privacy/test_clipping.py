"""A clip norm that moves, beside the paper's own algorithm in floating point."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import booleans, floats, integers, lists, sampled_from

from tests.effort import examples
from tests.shared.wire.manifests import manifest
from undersong.shared.privacy.clipping import MOST_MOVED, bit_noise, bit_size, clip_range, next_clip, update_noise
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.secagg.payload import opened_train, train_payload
from undersong.shared.secagg.private import coordinates_of, event_of, noise_of_sum, plan_noisy, sensitivity
from undersong.shared.secagg.quantise import TAIL_LENGTH, squared_norm_bound, unpack
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.privacy import AdaptiveClip, PrivacyModel, PrivacyTerms, PrivacyUnit

ENGINE = {"server": "twoserver", "distributed": "pairwise", "local": "sealed"}


def terms(model: str, noise: float, sites: int, **rule: float) -> PrivacyTerms:
    return PrivacyTerms(
        model=PrivacyModel(model),
        unit=PrivacyUnit.SITE,
        noise_multiplier=noise,
        delta=1e-6,
        epsilon=1,
        rounds=1,
        min_sites=sites,
        adaptive_clip=AdaptiveClip(**{"quantile": 0.5, "rate": 0.2, "start": 1.0, **rule}),
    )


def planned(asked: PrivacyTerms, sites: int, clip_norm: float) -> RoundManifest:
    engine = ENGINE[asked.model]
    bits: Any = 64 if engine_facts(engine).proves_norm else 32
    encoding = plan_noisy(summands=sites, clip_norm=clip_norm, modulus_bits=bits, terms=asked)
    cohort = tuple(sorted(f"site_{number:04}" for number in range(sites)))
    sizes = {"cohort": cohort, "min_cohort": sites, "target": sites}
    return manifest(engine=engine, encoding=encoding, privacy=asked, **sizes)


@settings(deadline=None, max_examples=examples(100))
@given(noise=floats(0.01, 500), sites=integers(2, 10_000), model=sampled_from(list(ENGINE)))
def test_count_and_sum_together_cost_what_one_sum_would(noise: float, sites: int, model: str) -> None:
    """The theorem: z**-2 = z_delta**-2 + (2 sigma_b)**-2; and few sites pay at most 15.5 per cent."""
    sigma = bit_noise(terms(model, noise, sites))
    left = update_noise(noise, sigma)
    assert left**-2 + (2 * sigma) ** -2 == pytest.approx(noise**-2, rel=1e-9)
    assert noise < left <= 1.1548 * noise
    assert math.hypot(1.0, bit_size(noise, sigma)) * noise == pytest.approx(left, rel=1e-9), "as the vector is scaled"
    if model != "local" and noise < sites / 20:
        assert sigma == sites / 20, "the paper's own choice, where it exists"


@settings(deadline=None, max_examples=examples(60))
@given(noise=floats(0.05, 20), sites=integers(2, 300), model=sampled_from(list(ENGINE)), length=integers(1, 10**6))
def test_the_bit_is_within_what_is_accounted_for(noise: float, sites: int, model: str, length: int) -> None:
    """What one site moves, what is proved of it, and the noise on the count follow from one vector."""
    made = planned(terms(model, noise, sites), sites, 0.3)
    encoding, coordinates = made.encoding, coordinates_of(made, length)
    assert encoding is not None
    assert encoding.clip_bit is not None
    assert coordinates == length + 1
    plain = encoding.model_copy(update={"clip_bit": None})
    assert squared_norm_bound(encoding, coordinates) == squared_norm_bound(plain, length) + encoding.clip_bit**2
    event = event_of(made, coordinates)
    assert event is not None
    found = noise * sensitivity(encoding, RoundKind.TRAIN, coordinates) / (2 * encoding.clip_bit)
    rounding = 2 * math.sqrt(length) / encoding.bound + 1 / encoding.clip_bit
    assert found == pytest.approx(bit_noise(made.privacy), rel=1e-3 + rounding)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=examples(40))
@given(
    model=sampled_from(list(ENGINE)),
    clip=floats(0.01, 100),
    norms=sampled_from([(0.1, 0.2, 0.5, 2.0), (1.0, 1.0, 1.0), (5.0, 0.0, 3.0, 9.0, 0.5)]),
    seed=integers(0, 2**32 - 1),
)
def test_a_round_moves_the_clip_norm_as_the_paper_does(
    model: str, clip: float, norms: tuple[float, ...], seed: int
) -> None:
    """Beside the same sum in floating point, without noise: the share is right to within the noise that was added."""
    made = planned(terms(model, 0.1, len(norms)), len(norms), clip)
    assert made.encoding is not None
    random, total = np.random.default_rng(seed), None
    for norm in norms:
        vector = random.normal(size=30)
        delta = (norm * vector / np.linalg.norm(vector)).astype(np.float32)
        sent = train_payload(made, delta, examples=1, loss=0.0, key=random.bytes(32))
        words = unpack(sent.data, sent.modulus_bits).copy()
        words = words if engine_facts(made.engine).tail_words else words[:-TAIL_LENGTH]
        total = words if total is None else total + words
    assert total is not None
    opened = opened_train(made, total, len(norms))
    share = sum(float(np.float32(norm)) <= clip * (1 - 1e-6) for norm in norms) / len(norms)
    near = any(abs(norm - clip) <= 1e-6 * clip for norm in norms)
    spread = noise_of_sum(made, 31, len(norms)) / (2 * made.encoding.clip_bit * len(norms))  # type: ignore[operator]
    assert opened.within is not None
    added = 0.0 if model == "server" else 8 * spread  # servers add theirs to the sum
    assert near or abs(opened.within - share) <= added + 1e-9
    assert opened.mean.size == 30


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
def test_it_comes_to_the_quantile_and_stays(quantile: float) -> None:
    """200 rounds of 100 sites with norms spread over a factor of 20, and the noise that is accounted for."""
    asked = terms("distributed", 1.0, 100, quantile=quantile, start=50.0)
    random, clip, seen = np.random.default_rng(7), 50.0, []
    assert asked.adaptive_clip is not None
    for _ in range(200):
        norms = np.exp(random.normal(0, 0.75, 100))
        share = float(np.mean(norms <= clip)) + random.normal(0, bit_noise(asked)) / 100
        clip = next_clip(asked.adaptive_clip, clip, share)
        seen.append(clip)
    wanted = float(np.quantile(np.exp(np.random.default_rng(8).normal(0, 0.75, 10**5)), quantile))
    assert np.exp(np.mean(np.log(seen[100:]))) == pytest.approx(wanted, rel=0.1)


@given(share=floats(allow_nan=False), quantile=floats(0.01, 0.99), rate=floats(0.01, 2.0))
def test_a_false_count_moves_it_no_further_than_noise_does(share: float, quantile: float, rate: float) -> None:
    """A site can add any number to a count that nothing proves, as much as all words hold."""
    found = next_clip(AdaptiveClip(quantile=quantile, rate=rate, start=1.0), 1.0, share)
    assert math.exp(-2 * rate) <= found <= math.exp(2 * rate)


@given(shares=lists(floats(-5, 5), max_size=30), quantile=floats(0.01, 0.99), rate=floats(0.01, 2.0), up=booleans())
def test_the_range_holds_whatever_shares_lead_to_and_no_more(
    shares: list[float], quantile: float, rate: float, up: bool
) -> None:
    rule = AdaptiveClip(quantile=quantile, rate=rate, start=3.0)
    clip = edge = rule.start
    for share in shares:
        clip, edge = next_clip(rule, clip, share), next_clip(rule, edge, -9.0 if up else 9.0)
    least, most = clip_range(rule, len(shares))
    assert least * (1 - 1e-9) <= clip <= most * (1 + 1e-9)
    assert edge == pytest.approx(most if up else least, rel=1e-9)


def test_it_never_leaves_what_can_be_encoded() -> None:
    rule = AdaptiveClip(quantile=0.5, rate=2.0, start=1.0)
    up = down = 1.0
    for _ in range(100):
        up, down = next_clip(rule, up, -3.0), next_clip(rule, down, 4.0)
    assert (up, down) == (MOST_MOVED, 1 / MOST_MOVED)

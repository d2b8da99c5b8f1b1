"""Noise on sums, with every engine that can have it: as much as is accounted for, and nothing exact beside it."""

import os
from typing import Any

import numpy as np
import pytest

from tests.contracts.parties import derived_from
from tests.contracts.rounds import MODEL, SITES, VALUES, Round, manifest_of
from undersong.shared.privacy.toeplitz import coefficients, inverse, spread
from undersong.shared.secagg.engines import ENGINES, engine_facts
from undersong.shared.secagg.payload import opened_sums, opened_train, train_payload
from undersong.shared.secagg.private import (
    event_of,
    misplaced,
    noise_of_server,
    noise_of_sum,
    plan_multiples,
    plan_noisy,
    sensitivity,
)
from undersong.shared.secagg.quantise import unpack
from undersong.shared.secagg.twoserver.noise import JOB_NOISE, draw, sequence
from undersong.shared.wire.manifest import STATISTICS_RECIPE, RoundKind, RoundManifest
from undersong.shared.wire.privacy import CorrelatedNoise, GaussianEvent, PrivacyModel, PrivacyTerms, PrivacyUnit

CLIP = 2.0
PLACES = [
    (engine, model, kind)
    for engine in ENGINES
    for model in (PrivacyModel.SERVER, PrivacyModel.DISTRIBUTED, PrivacyModel.LOCAL)
    if misplaced(model, engine_facts(engine)) is None
    for kind in (RoundKind.TRAIN, RoundKind.STATISTICS)
]


def private(engine: str, model: PrivacyModel, kind: RoundKind, noise: float = 0.7) -> RoundManifest:
    """A round of seven sites, of which the noise of three is counted on."""
    terms = PrivacyTerms(
        model=model,
        unit=PrivacyUnit.SITE if kind is RoundKind.TRAIN else PrivacyUnit.RECORD,
        noise_multiplier=noise,
        delta=1e-6,
        epsilon=100,
        rounds=1,
        min_sites=3,
    )
    count = len(SITES)
    if kind is RoundKind.TRAIN:
        bits: Any = 64 if engine_facts(engine).proves_norm else 32
        encoding = plan_noisy(summands=count, clip_norm=CLIP, modulus_bits=bits, terms=terms)
        return manifest_of(engine, kind, privacy=terms, encoding=encoding)
    encoding = plan_multiples(summands=count, length=VALUES, terms=terms)
    recipe = {"name": STATISTICS_RECIPE, "digest": "0" * 64}
    return manifest_of(engine, kind, privacy=terms, encoding=encoding, length=VALUES, recipe=recipe)


def exact(manifest: RoundManifest, round_: Round) -> Any:
    """The sum of the sites' integers without noise."""
    plain = Round.__new__(Round)
    plain.manifest = manifest.model_copy(update={"privacy": manifest.privacy.model_copy(update={"model": "server"})})  # type: ignore[union-attr]
    words = [unpack(plain.payload(site).data, manifest.encoding.modulus_bits) for site in round_.bodies]  # type: ignore[union-attr]
    return np.sum(words, axis=0, dtype=words[0].dtype)


@pytest.mark.parametrize(("engine", "model", "kind"), PLACES)
def test_the_sum_has_as_much_noise_as_is_accounted_for(engine: str, model: PrivacyModel, kind: RoundKind) -> None:
    manifest = private(engine, model, kind)
    encoding, length = manifest.encoding, MODEL if kind is RoundKind.TRAIN else VALUES
    assert encoding is not None
    round_ = Round(manifest)
    round_.run()
    total = round_.total(round_.bodies)
    signed: Any = np.int64 if encoding.modulus_bits == 64 else np.int32
    noise = (total[:length] - exact(manifest, round_)[:length]).view(signed).astype(np.float64)
    found, wanted = float(np.sqrt(np.mean(noise**2))), noise_of_sum(manifest, length, len(SITES))
    spread = 4 / np.sqrt(2 * length)
    assert 1 - min(spread, 0.8) < found / wanted < 1 + spread
    # What is accounted for is at most what is there: all seven sites, or two servers, add more than is counted on.
    assert wanted > 0.7 * sensitivity(encoding, kind, length)
    if kind is RoundKind.TRAIN:
        opened = opened_train(manifest, total, len(SITES))
        assert (opened.weight, opened.clipped, opened.loss) == (len(SITES), None, None)
    else:
        values = opened_sums(manifest, total)
        sent = sum(np.random.default_rng(place).normal(0, 100, VALUES) for place in range(len(SITES)))
        assert np.abs(values - sent).max() < 6 * wanted / encoding.scale
    assert model is PrivacyModel.DISTRIBUTED or event_of(manifest, length) == GaussianEvent(noise_multiplier=0.7)


def turns(row: int, *, separation: int = 4, epsilon: float = 100) -> RoundManifest:
    """A round of a job whose two servers correlate their noise over rounds."""
    terms = PrivacyTerms(
        model=PrivacyModel.SERVER,
        unit=PrivacyUnit.SITE,
        noise_multiplier=0.7,
        delta=1e-6,
        epsilon=epsilon,
        rounds=12,
        min_sites=3,
        correlated=CorrelatedNoise(separation=separation, participations=3),
    )
    encoding = plan_noisy(summands=len(SITES), clip_norm=CLIP, modulus_bits=64, terms=terms)
    return manifest_of("twoserver", RoundKind.TRAIN, privacy=terms, encoding=encoding, noise_row=row)


def noise_in(manifest: RoundManifest) -> Any:
    """What two servers added to the sum of a round that was run from its beginning."""
    round_ = Round(manifest)
    round_.run()
    total = round_.total(round_.bodies)
    assert opened_train(manifest, total, len(SITES)).weight == len(SITES)
    return (total - exact(manifest, round_)[:MODEL]).view(np.int64).astype(np.float64)


def test_correlated_noise_is_made_again_from_what_each_server_keeps() -> None:
    """Fresh keys for all else, as after a crash or in another attempt; each server's part is enough alone."""
    first, again = noise_in(turns(5)), noise_in(turns(5))
    assert np.array_equal(first, again)
    label = JOB_NOISE + turns(5).job_id.encode()
    parts = [draw(turns(5), MODEL, derived_from(server)(label)) for server in (b"leader", b"helper")]
    assert np.array_equal(first, np.sum([part for part in parts if part is not None], axis=0))
    assert not np.array_equal(*parts)


def test_consecutive_rounds_have_the_covariance_that_was_planned() -> None:
    """Each round takes back a part of what the last one added, so that their sum has less noise."""
    length, key, weights = 50_000, bytes(range(32)), inverse(coefficients(4), 8)
    drawn = [draw(turns(row), length, key) for row in (5, 6, 7, 8)]
    rows = [np.asarray(row, np.float64) / noise_of_server(turns(5), length) for row in drawn]
    for lag, row in enumerate(rows):
        planned = float(np.sum(weights[:5] * weights[lag : 5 + lag]))
        assert float(np.mean(rows[0] * row)) == pytest.approx(planned, abs=8 / np.sqrt(length))
    assert float(np.std(rows[0])) == pytest.approx(spread(4, 5), abs=0.02)
    assert np.std(rows[0] + rows[1]) < 0.85 * np.hypot(np.std(rows[0]), np.std(rows[1]))


@pytest.mark.parametrize("changes", [{"separation": 5}, {"epsilon": 99}], ids=["band", "claim"])
def test_rounds_that_differ_in_their_terms_have_rows_of_their_own(changes: dict[str, Any]) -> None:
    """A coordinator that changes a job's terms gets independent noise, and never the same for two sums."""
    length, key = 20_000, bytes(range(32))
    one, other = draw(turns(2), length, key), draw(turns(2, **changes), length, key)
    assert one is not None
    assert other is not None
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(length)
    moved = turns(2).model_copy(update={"job_id": "job_other"})
    assert sequence(moved, length) != sequence(turns(2), length) != sequence(turns(2), length + 1)
    assert sequence(turns(2), length) == sequence(turns(3), length), "what a job's rounds have in common"


def test_a_private_update_says_nothing_exact() -> None:
    """Its tail is the same whatever the site's examples, loss and norm are."""
    manifest = private("pairwise", PrivacyModel.DISTRIBUTED, RoundKind.TRAIN)
    tails = set()
    for examples, loss, size in ((1, 0.1, 0.01), (900, 7.5, 0.01), (900, 0.1, 50.0)):
        delta = np.full(MODEL, size, np.float32)
        payload = train_payload(manifest, delta, examples=examples, loss=loss, key=os.urandom(32))
        tails.add(unpack(payload.data, payload.modulus_bits)[MODEL:].tobytes())
    assert len(tails) == 1

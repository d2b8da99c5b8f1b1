"""Noise on sums, with every engine that can have it: as much as is accounted for, and nothing exact beside it."""

import os
from typing import Any

import numpy as np
import pytest

from tests.contracts.rounds import MODEL, SITES, VALUES, Round, manifest_of
from undersong.shared.secagg.engines import ENGINES, engine_facts
from undersong.shared.secagg.payload import opened_sums, opened_train, train_payload
from undersong.shared.secagg.private import (
    event_of,
    misplaced,
    noise_of_sum,
    plan_multiples,
    plan_noisy,
    sensitivity,
)
from undersong.shared.secagg.quantise import unpack
from undersong.shared.wire.manifest import STATISTICS_RECIPE, RoundKind, RoundManifest
from undersong.shared.wire.privacy import GaussianEvent, PrivacyModel, PrivacyTerms, PrivacyUnit

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


def test_a_private_update_says_nothing_exact() -> None:
    """Its tail is the same whatever the site's examples, loss and norm are."""
    manifest = private("pairwise", PrivacyModel.DISTRIBUTED, RoundKind.TRAIN)
    tails = set()
    for examples, loss, size in ((1, 0.1, 0.01), (900, 7.5, 0.01), (900, 0.1, 50.0)):
        delta = np.full(MODEL, size, np.float32)
        payload = train_payload(manifest, delta, examples=examples, loss=loss, key=os.urandom(32))
        tails.add(unpack(payload.data, payload.modulus_bits)[MODEL:].tobytes())
    assert len(tails) == 1

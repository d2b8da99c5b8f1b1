"""The running sum is the sum of the accepted updates, whatever the order and whatever was refused in between."""

import secrets
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.services.aggregator.contributions.folding import BodyLost, Folding
from undersong.services.aggregator.repository.contributions import Contribution
from undersong.shared.errors import Refusal
from undersong.shared.ids import Digest, SiteId, digest_of
from undersong.shared.learning.tensors import Model, Schema, save
from undersong.shared.secagg.engine import ClientRound
from undersong.shared.secagg.engines import engine_named
from undersong.shared.secagg.payload import model_payload, train_payload
from undersong.shared.secagg.private import noise_reach, plan_noisy
from undersong.shared.secagg.quantise import DTYPES, OutOfRange, plan_encoding
from undersong.shared.wire.manifest import DataRef, ModelRef, RecipeRef, RoundKind, RoundManifest, StrategyRef
from undersong.shared.wire.privacy import PrivacyModel, PrivacyTerms, PrivacyUnit

SITES = tuple(SiteId(f"site_{number}") for number in range(6))


def manifest_of(bits: int) -> RoundManifest:
    return RoundManifest(
        federation_id="fed_a",
        job_id="job_a",
        round_id="rnd_a",
        number=0,
        attempt=1,
        kind=RoundKind.TRAIN,
        engine="sealed",
        recipe=RecipeRef(name="null", digest="0" * 64),
        data=DataRef(dataset="d"),
        model=ModelRef(version_id="ver_a", digest="0" * 64),
        model_id="mdl_a",
        encoding=plan_encoding(summands=6, max_weight=3, clip_norm=None, bound_value=4.0, modulus_bits=bits),
        cohort=SITES,
        min_cohort=2,
        target=6,
        strategy=StrategyRef(name="fedavg"),
        seed=0,
        deadline_s=60,
    )


@pytest.mark.parametrize("bits", [16, 24, 32, 64])
@settings(max_examples=examples(25), deadline=None)
@given(data=st.data())
def test_any_order_with_bad_bodies_in_between(bits: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 70_000))
    order = data.draw(st.permutations(range(6)))
    bad = data.draw(st.sets(st.integers(0, 5), max_size=4))
    manifest, engine = manifest_of(bits), engine_named("sealed")
    opened = engine.server.open(manifest)
    folding, expected = Folding(manifest, opened.secret), np.zeros(0)
    with TemporaryDirectory() as folder:
        for at in order:
            delta = np.random.default_rng(at).normal(size=length).astype(np.float32)
            payload = train_payload(manifest, delta, examples=2, loss=1.0, key=secrets.token_bytes(32))
            plain = np.frombuffer(bytes(payload.data), np.uint8).reshape(-1, bits // 8).copy()
            client_round = ClientRound(manifest, SITES[at], opened.public)
            body = bytearray(b"".join(bytes(p) for p in engine.client.upload(client_round, b"", None, payload)[1]))
            if at in bad:
                body[-data.draw(st.integers(1, min(16 + length, 2000)))] ^= 0x40
            path = Path(folder) / str(at)
            path.write_bytes(body)
            contribution = Contribution(at, SITES[at], Digest("0" * 64), None, None)
            if at in bad:
                with pytest.raises(Refusal):
                    folding.add(contribution, path)
                continue
            folding.add(contribution, path)
            wide = np.zeros((plain.shape[0], np.dtype(DTYPES[bits]).itemsize), np.uint8)
            wide[:, : plain.shape[1]] = plain
            words = wide.reshape(-1).view(DTYPES[bits])
            expected = words.copy() if not expected.size else expected + words
    good = set(range(6)) - bad
    assert folding.folded == good
    if good:
        np.testing.assert_array_equal(folding.opened(), expected)
        assert (folding.total, folding.folded) == (None, set())


def test_single_updates_are_kept_where_the_strategy_compares_them_and_only_there(tmp_path: Path) -> None:
    for name in ("fedavg", "median"):
        manifest = manifest_of(32).model_copy(update={"strategy": StrategyRef(name=name)})
        engine = engine_named("sealed")
        opened = engine.server.open(manifest)
        folding, sent = Folding(manifest, opened.secret), {}
        for at in range(4):
            delta = np.random.default_rng(at).normal(size=60_000).astype(np.float32)  # more than one sealed chunk
            payload = train_payload(manifest, delta, examples=2, loss=1.0, key=secrets.token_bytes(32))
            sent[at] = np.frombuffer(bytes(payload.data), np.uint32)
            client_round = ClientRound(manifest, SITES[at], opened.public)
            body = bytearray(b"".join(bytes(p) for p in engine.client.upload(client_round, b"", None, payload)[1]))
            body[-1] ^= at == 3
            (tmp_path / str(at)).write_bytes(body)
            contribution = Contribution(at, SITES[at], Digest("0" * 64), None, None)
            if at == 3:
                with pytest.raises(Refusal):
                    folding.add(contribution, tmp_path / str(at))
                continue
            folding.add(contribution, tmp_path / str(at))
        assert folding.compares == (name == "median")
        assert sorted(folding.singles) == ([0, 1, 2] if name == "median" else [])
        assert all(np.array_equal(words, sent[at]) for at, words in folding.singles.items())


def test_noise_of_the_sites_own_is_no_fault_and_what_noise_cannot_be_is(tmp_path: Path) -> None:
    """The aggregator sees each update: it is refused only beyond what a draw can add to the bound."""
    terms = PrivacyTerms(
        model=PrivacyModel.LOCAL,
        unit=PrivacyUnit.SITE,
        noise_multiplier=5.0,
        delta=1e-5,
        epsilon=10,
        rounds=1,
        min_sites=2,
    )
    encoding = plan_noisy(summands=6, clip_norm=1.0, modulus_bits=32, terms=terms)
    manifest = manifest_of(32).model_copy(update={"encoding": encoding, "privacy": terms})
    engine = engine_named("sealed")
    opened = engine.server.open(manifest)
    folding = Folding(manifest, opened.secret)
    reach = encoding.bound + noise_reach(manifest, 1000, 1)
    for at, largest in enumerate((None, reach, reach + 1)):
        delta = np.zeros(1000, np.float32)
        payload = train_payload(manifest, delta, examples=2, loss=1.0, key=secrets.token_bytes(32))
        words = np.frombuffer(bytes(payload.data), np.uint32).copy()
        assert np.abs(words[:1000].view(np.int32)).max() > encoding.bound, "more than an exact update can be"
        if largest is not None:
            words[0] = largest
        sent = replace(payload, data=memoryview(words.view(np.uint8)))
        client_round = ClientRound(manifest, SITES[at], opened.public)
        path = tmp_path / str(at)
        body = b"".join(bytes(p) for p in engine.client.upload(client_round, b"", None, sent)[1])
        path.write_bytes(body)
        contribution = Contribution(at, SITES[at], digest_of(body), None, None)
        if largest == reach + 1:
            with pytest.raises(OutOfRange):
                folding.add(contribution, path)
        else:
            folding.add(contribution, path)
    assert folding.folded == {0, 1}


def test_a_body_that_is_gone() -> None:
    folding = Folding(manifest_of(32), bytes(32))
    with pytest.raises(BodyLost):
        folding.add(Contribution(1, SITES[0], Digest("0" * 64), None, None), Path("/nowhere/at/all"))


def test_what_no_longer_counts_must_be_taken_out() -> None:
    folding = Folding(manifest_of(32), bytes(32), folded={1, 2})
    accepted = [Contribution(number, SITES[number], Digest("0" * 64), None, None) for number in (1, 2, 3)]
    assert not folding.misfits(accepted)
    assert [c.id for c in folding.missing(accepted)] == [3]
    rejected = Contribution(2, SITES[2], Digest("0" * 64), "out-of-range", "")
    assert folding.misfits([accepted[0], rejected, accepted[2]])


def test_an_initial_model_of_many_chunks_arrives_as_it_was_sent(tmp_path: Path) -> None:
    """A block of the body is valid only until the next one comes."""
    weights = np.arange(300_000, dtype=np.float32)
    model = Model(Schema.of({"weights": weights}), {"weights": weights})
    manifest = manifest_of(32).model_copy(update={"kind": RoundKind.INITIALISE, "encoding": None, "model": None})
    engine = engine_named("sealed")
    opened = engine.server.open(manifest)
    client_round = ClientRound(manifest, SITES[0], opened.public)
    with (tmp_path / "body").open("wb") as file:
        for piece in engine.client.upload(client_round, b"", None, model_payload(save(model)))[1]:
            file.write(piece)
    folding = Folding(manifest, opened.secret)
    folding.add(Contribution(1, SITES[0], Digest("0" * 64), None, None), tmp_path / "body")
    assert folding.model is not None
    np.testing.assert_array_equal(folding.model.tensors["weights"], weights)

"""What compressed updates add up to: the documented coordinates, exact sums, means without bias, and no loss."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.effort import examples
from tests.services.aggregator.conftest import make_manifest
from tests.vectors import compression as reference
from undersong.shared.ids import Digest, VersionId
from undersong.shared.secagg.compression import Compressor, add_left_out, grid_of, kept, sent_length
from undersong.shared.secagg.engine import UpdateRefused
from undersong.shared.secagg.payload import compressed_payload, opened_train, train_payload
from undersong.shared.secagg.quantise import MIN_ROTATED_BOUND, NoHeadroom, plan_encoding, plan_norm, signed, unpack
from undersong.shared.wire.compression import Compression
from undersong.shared.wire.manifest import Encoding, ModelRef, RoundKind, RoundManifest

MODEL = ModelRef(version_id=VersionId("ver_01k5z0000000000000000000aa"), digest=Digest("0" * 64))
KEEP, ROTATE = Compression(keep=0.25), Compression(rotation=True)
ALL = Compression(keep=0.25, rotation=True, error_feedback=True)


def encoding(bits: int = 32, sites: int = 3, clip: float | None = 4.0, least: int = MIN_ROTATED_BOUND) -> Encoding:
    return plan_encoding(
        summands=sites, max_weight=1, clip_norm=clip, bound_value=None if clip else 4.0, modulus_bits=bits, least=least
    )


def manifest(compression: Compression | None, seed: int = 5, **changes: Any) -> RoundManifest:
    fields = {"model": MODEL, "encoding": encoding(), "seed": seed, "compression": compression, **changes}
    return make_manifest(**fields)


def drawn(length: int, seed: int = 0, scale: float = 0.02) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=length) * scale).astype(np.float32)


def mean_of(asked: RoundManifest, parameters: int, changes: list[np.ndarray]) -> np.ndarray:
    """What a strategy gets, by the parts that agents and aggregators run."""
    compressor, total = Compressor.of(asked, parameters, changes[0].size), None
    for place, change in enumerate(changes):
        made, _ = compressed_payload(asked, compressor, change, examples=1, loss=1.0, key=bytes([place]) * 32)
        words = unpack(made.data, made.modulus_bits)
        total = words.copy() if total is None else total + words
    assert total is not None
    opened = opened_train(asked, total, len(changes))
    assert (opened.weight, opened.clipped, opened.loss) == (len(changes), 0, 1.0)
    return compressor.expand(opened.mean)


@pytest.mark.parametrize(("keep", "parameters"), [(0.25, 100), (0.1, 7), (0.999, 50), (0.001, 3), (0.3, 8200)])
def test_the_parameters_that_are_sent_are_the_documented_ones(keep: float, parameters: int) -> None:
    asked = manifest(Compression(keep=keep), seed=11)
    compressor = Compressor.of(asked, parameters, parameters + 2)
    indices, runs = reference.chosen(11, keep, parameters)
    assert compressor.chosen is not None
    assert compressor.runs is not None
    assert (compressor.chosen.tolist(), compressor.runs.tolist()) == (indices, runs)
    vector = np.arange(parameters + 2, dtype=np.float32)
    sent = compressor.compress(vector)
    assert sent.tolist() == [*indices, parameters, parameters + 1]
    assert sent.size == sent_length(asked.compression, parameters, parameters + 2)
    whole = compressor.expand(sent)
    assert whole[parameters:].tolist() == [parameters, parameters + 1]
    assert [whole[i] for i in indices] == [np.float32(i * run) for i, run in zip(indices, runs, strict=True)]
    assert np.count_nonzero(whole[:parameters]) == np.count_nonzero(np.array(indices))


def test_without_compression_nothing_is_copied_or_changed() -> None:
    asked, change = manifest(None), drawn(40)
    compressor = Compressor.of(asked, 30, 40)
    assert compressor.compress(change) is change
    assert compressor.expand(change) is change
    made, left_out = compressed_payload(asked, compressor, change, examples=3, loss=0.5, key=bytes(32))
    plain = train_payload(asked, change, examples=3, loss=0.5, key=bytes(32))
    assert (bytes(made.data), made.length, left_out) == (bytes(plain.data), plain.length, None)
    assert "compression" not in asked.model_dump(mode="json")


@given(st.integers(2, 400), st.integers(0, 9), st.sampled_from([KEEP, ROTATE, ALL, Compression(error_feedback=True)]))
@settings(max_examples=examples(60), deadline=None)
def test_the_mean_is_that_of_what_each_site_sent(parameters: int, buffers: int, compression: Compression) -> None:
    """Sums of integers are exact, so that the mean differs by the rounding of the grid alone."""
    asked = manifest(compression)
    changes = [drawn(parameters + buffers, seed) for seed in range(3)]
    before = [change.copy() for change in changes]
    got = mean_of(asked, parameters, changes)
    assert all(np.array_equal(one, other) for one, other in zip(before, changes, strict=True))
    compressor = Compressor.of(asked, parameters, parameters + buffers)
    expected = compressor.expand(compressor.compress(np.mean(changes, 0, dtype=np.float32)).copy())
    assert np.abs(got - expected).max() < 1e-5
    assert np.abs(got[parameters:] - np.mean(changes, 0)[parameters:]).max(initial=0) < 1e-5


def test_a_sum_of_compressed_updates_is_the_sum_of_their_integers() -> None:
    asked = manifest(Compression(keep=0.5, rotation=True), encoding=encoding(bits=16))
    compressor, parts = Compressor.of(asked, 90, 97), []
    for place in range(3):
        made, _ = compressed_payload(asked, compressor, drawn(97, place), examples=1, loss=0.0, key=bytes([place]) * 32)
        parts.append(unpack(made.data, 16))
    total = sum(signed(part, 16).astype(np.int64) for part in parts)
    assert np.array_equal(signed(np.add.reduce(parts, dtype=np.uint16), 16), total)


def test_the_mean_over_draws_is_the_change_itself() -> None:
    """With rand-k alone what is opened is unbiased: over many rounds each coordinate is right on average."""
    change, rounds = drawn(64, scale=1.0), 3000
    total = np.zeros(64)
    for seed in range(rounds):
        compressor = Compressor.of(manifest(KEEP, seed=seed), 60, 64)
        total += compressor.expand(compressor.compress(change))
    off = np.abs(total / rounds - change)[:60] / np.abs(change[:60])
    assert off.max() < 5 * np.sqrt(3 / rounds)  # a coordinate's factor is 4 or 0: its variance is 3
    assert np.abs(total / rounds - change)[60:].max() < 1e-6


def test_rotated_rounding_is_unbiased_on_a_coarse_grid() -> None:
    change, rounds = drawn(300, scale=0.2), 400
    total = np.zeros(300)
    coarse = plan_encoding(
        summands=1, max_weight=1, clip_norm=4.0, bound_value=None, modulus_bits=16, least=MIN_ROTATED_BOUND
    ).model_copy(update={"bound": MIN_ROTATED_BOUND})
    step = 0.0
    for seed in range(rounds):
        asked = make_manifest(
            sites=1, min_cohort=1, model=MODEL, seed=seed, compression=ROTATE,
            encoding=coarse.model_copy(update={"scale": coarse.bound / 4.0}),
        )  # fmt: skip
        step = 1 / grid_of(asked.encoding, ROTATE, 300).scale
        total += mean_of(asked, 300, [change])
    assert np.abs(total / rounds - change).max() < 5 * step / 2 / np.sqrt(rounds)


def test_a_rotation_makes_few_bits_exact() -> None:
    """The error of 16-bit words for 100,000 parameters, whose norm is far larger than any of them."""
    change = drawn(100_000, scale=0.01)
    change[:50] *= 20
    errors = {}
    for name, compression in (("plain", None), ("rotated", ROTATE)):
        asked = manifest(compression, encoding=encoding(bits=16, clip=8.0))
        got = mean_of(asked, change.size, [change] * 3)
        errors[name] = float(np.mean((got - change) ** 2))
    assert errors["rotated"] < errors["plain"] / 1000


def test_what_is_left_out_is_the_rest_of_the_change() -> None:
    asked = manifest(ALL)
    change = drawn(110)
    compressor = Compressor.of(asked, 100, 110)
    made, left_out = compressed_payload(asked, compressor, change, examples=1, loss=0.0, key=bytes(32))
    sent = compressor.expand(opened_train(asked, unpack(made.data, 32), 1).mean)
    assert left_out is not None
    assert left_out.shape == (100,)
    assert np.abs(left_out + sent[:100] - change[:100]).max() < 1e-6
    again = np.zeros(110, np.float32)
    add_left_out(again, left_out)
    assert np.array_equal(again[:100], left_out)
    add_left_out(again, None)


def test_with_feedback_the_whole_change_arrives_over_rounds() -> None:
    """What arrived and what is still left out are together the changes of all rounds, to the rounding of float32."""
    left_out, arrived, total = None, np.zeros(100), np.zeros(100)
    for number in range(40):
        asked = manifest(ALL, seed=number, encoding=encoding(bits=16))
        compressor, change = Compressor.of(asked, 100, 100), drawn(100, number)
        total += change
        add_left_out(change, left_out)
        made, left_out = compressed_payload(asked, compressor, change, examples=1, loss=0.0, key=bytes([number]) * 32)
        arrived += compressor.expand(opened_train(asked, unpack(made.data, 16), 1).mean)
    assert left_out is not None
    assert np.abs(arrived + left_out - total).max() < 1e-4
    assert np.abs(left_out).max() < 1.0


def test_what_a_limit_cuts_off_is_not_kept_for_later() -> None:
    asked = manifest(ALL)
    change = drawn(100, scale=50.0)
    compressor = Compressor.of(asked, 100, 100)
    _, left_out = compressed_payload(asked, compressor, change, examples=1, loss=0.0, key=bytes(32))
    assert left_out is not None
    assert compressor.chosen is not None
    assert not left_out[compressor.chosen].any()
    rest = np.setdiff1d(np.arange(100), compressor.chosen)
    assert np.array_equal(left_out[rest], change[rest])


@pytest.mark.parametrize("bad", [0, -0.1, 1, 1.0, 1.5, 1e-9, float("nan"), float("inf"), "0.5", True])
def test_shares_that_are_none_are_refused(bad: Any) -> None:
    with pytest.raises(ValidationError):
        Compression(keep=bad)


def test_manifests_refuse_what_cannot_be_kept() -> None:
    with pytest.raises(ValidationError, match="changes nothing"):
        Compression()
    with pytest.raises(ValidationError, match="needs a clip_norm"):
        manifest(ROTATE, encoding=encoding(clip=None))
    with pytest.raises(ValidationError, match="only updates of a round that trains"):
        make_manifest(RoundKind.STATISTICS, compression=KEEP)
    with pytest.raises(NoHeadroom):
        grid_of(encoding(clip=None), ROTATE, 10)
    with pytest.raises(NoHeadroom, match="too small"):
        grid_of(encoding(clip=4e-300), ROTATE, 2**36)


def test_a_proved_norm_is_not_rotated() -> None:
    asked = manifest(ROTATE, engine="twoserver", encoding=plan_norm(summands=3, clip_norm=1.0))
    with pytest.raises(UpdateRefused, match="proves norms"):
        train_payload(asked, drawn(10), examples=1, loss=0.0, key=bytes(32))


def test_every_attempt_and_every_site_sends_the_same_coordinates() -> None:
    one, again, other = (
        Compressor.of(manifest(ALL, seed=seed, attempt=attempt), 500, 500) for seed, attempt in ((5, 1), (5, 2), (6, 1))
    )
    assert one.chosen is not None
    assert np.array_equal(one.chosen, again.chosen)
    assert one.rotation == again.rotation
    assert not np.array_equal(one.chosen, other.chosen)
    assert kept(0.001, 1) == 1
    assert kept(0.5, 0) == 0

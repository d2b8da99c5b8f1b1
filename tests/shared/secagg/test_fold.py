"""The running sum: exact, all or nothing, whatever the file's size."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.shared.secagg.verifiers import UNCERTIFIED
from tests.shared.wire.manifests import SITES, manifest
from undersong.shared.ids import SiteId
from undersong.shared.secagg.engine import ClientRound, ServerRound, UpdateRefused
from undersong.shared.secagg.fold import WINDOW, BytesSource, FileSource, RunningSum, fold_file, raw_blocks
from undersong.shared.secagg.payload import opened_train, train_payload, weight_of
from undersong.shared.secagg.quantise import OutOfRange, pack, plan_encoding
from undersong.shared.secagg.sealed.engine import SEALED
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.updates import MalformedUpdate


@pytest.mark.parametrize("offset", [0, 64, 4096, 4160])
@pytest.mark.parametrize("size", [1, 1000, WINDOW - 1, WINDOW, WINDOW + 5000])
@pytest.mark.parametrize("step", [24 * 1000, 196_624, WINDOW])
def test_a_file_is_read_as_it_is(tmp_path: Path, offset, size, step) -> None:
    data = np.random.default_rng(size).bytes(size)
    path = tmp_path / "body"
    path.write_bytes(bytes(offset) + data)
    with FileSource(path, offset) as source:
        read = []
        while part := source.take(step):
            read.append(bytes(part))
    assert b"".join(read) == data
    assert [len(part) for part in read[:-1]] == [step] * (len(read) - 1)


@given(st.sampled_from([16, 24, 32, 64]), st.lists(st.integers(0, 2**63), min_size=1, max_size=20), st.integers(1, 7))
@settings(max_examples=examples(60))
def test_blocks_of_any_size_add_up(bits, words, per_block) -> None:
    dtype = {16: "u2", 24: "u4", 32: "u4", 64: "u8"}[bits]
    ring = np.array([word % 2**bits for word in words], dtype)
    packed, size = pack(ring, bits), per_block * bits // 8
    total = RunningSum(bits, ring.size)
    for _ in range(3):
        total.fold(lambda: (packed[at : at + size] for at in range(0, packed.nbytes, size)))
    assert [int(word) % 2**bits for word in total.total] == [3 * int(word) % 2**bits for word in ring]
    assert total.count == 3


def bodies(folder: Path, made: RoundManifest, length: int) -> tuple[ServerRound, list[Path], list[np.ndarray]]:
    opened = SEALED.server.open(made)
    paths, vectors = [], []
    for number, site in enumerate(SITES):
        vector = np.random.default_rng(number).normal(0, 0.01, length).astype(np.float32)
        payload = train_payload(made, vector, examples=10 * (number + 1), loss=float(number), key=os.urandom(32))
        client_round = ClientRound(made, SiteId(site), opened.public)
        path = folder / site
        with path.open("wb") as file:
            for part in SEALED.client.upload(
                client_round, SEALED.client.begin(client_round, UNCERTIFIED), None, payload
            )[1]:
                file.write(part)
        paths.append(path)
        vectors.append(vector)
    return ServerRound(made, opened.secret), paths, vectors


def test_sealed_files_fold_to_the_weighted_mean(tmp_path: Path) -> None:
    made = manifest()
    server_round, paths, vectors = bodies(tmp_path, made, 100_000)
    total = RunningSum(32, 100_000 + 18)
    headers = [fold_file(total, SEALED.server, server_round, path) for path in paths]
    assert [header.site_id for header in headers] == list(SITES)
    SEALED.server.unmask_sum(server_round, total.total)
    opened = opened_train(made, total.total, total.count)
    assert (opened.weight, opened.clipped) == (6, 0)
    assert opened.loss == pytest.approx((0 + 2 + 6) / 6)
    wanted = sum(w * v for w, v in zip((1, 2, 3), vectors, strict=True)) / 6
    assert made.encoding is not None
    assert np.abs(opened.mean - wanted).max() < 1.1 / made.encoding.scale


@pytest.mark.parametrize("place", [100, 250_000, -1])
def test_a_tampered_file_leaves_the_sum_as_it_was(tmp_path: Path, place) -> None:
    server_round, paths, _ = bodies(tmp_path, manifest(), 100_000)
    total = RunningSum(32, 100_000 + 18)
    fold_file(total, SEALED.server, server_round, paths[0])
    before = total.total.copy()
    body = bytearray(paths[1].read_bytes())
    body[place] ^= 1
    paths[1].write_bytes(body)
    with pytest.raises((UpdateRefused, MalformedUpdate)):
        fold_file(total, SEALED.server, server_round, paths[1])
    assert np.array_equal(total.total, before)
    assert total.count == 1


@pytest.mark.parametrize("length", [10, 100_000 + 17, 100_000 + 19, 400_000])
def test_a_vector_of_another_length_leaves_the_sum_as_it_was(tmp_path: Path, length) -> None:
    server_round, paths, _ = bodies(tmp_path, manifest(), 100_000)
    total = RunningSum(32, length)
    with pytest.raises(UpdateRefused):
        fold_file(total, SEALED.server, server_round, paths[0])
    assert not total.total.any()
    assert total.count == 0


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"USU1")
    with pytest.raises(MalformedUpdate):
        fold_file(RunningSum(32, 3), SEALED.server, ServerRound(manifest(), bytes(32)), path)
    with pytest.raises(UpdateRefused, match="too early"):
        list(raw_blocks(BytesSource(bytes(10)), 11))
    assert b"".join(map(bytes, raw_blocks(BytesSource(bytes(10)), 10))) == bytes(10)


def test_weights_come_from_examples() -> None:
    """In units of ten, at least 1, at most max_weight: no site takes the model over."""
    assert [weight_of(examples, manifest()) for examples in (1, 14, 16, 95, 10_000)] == [1, 1, 2, 10, 10]
    equal = plan_encoding(summands=3, max_weight=1, clip_norm=1.0, bound_value=None, modulus_bits=32)
    assert weight_of(10_000, manifest(encoding=equal)) == 1


def test_more_summands_than_planned_are_refused(tmp_path: Path) -> None:
    made = manifest()
    server_round, paths, _ = bodies(tmp_path, made, 10)
    total = RunningSum(32, 28)
    for _ in range(4):
        fold_file(total, SEALED.server, server_round, paths[0])
    with pytest.raises(OutOfRange):
        opened_train(made, total.total, total.count)

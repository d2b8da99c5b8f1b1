"""The ring against schoolbook arithmetic on big integers, and sums of ciphertexts opened by sums of keys."""

import os

import numpy as np
import pytest

from tests.shared.lattice import reference
from undersong.shared.fields.sums import add_field
from undersong.shared.lattice.packings import N
from undersong.shared.lattice.ring import (
    TAIL,
    Q,
    UniformWords,
    Words,
    decrypt,
    elements,
    encrypt,
    gaussian,
    restored,
    transformed,
)
from undersong.shared.privacy.noise import magnitudes

EDGES = [0, 1, Q - 1, 2**32 - 1, 2**32, 2**63, Q - 2**32]


def polynomial(seed: int) -> Words:
    words = np.random.default_rng(seed).integers(0, Q, N, np.uint64)
    words[: len(EDGES)] = EDGES
    return words


def test_the_parameters_are_those_of_the_reference() -> None:
    assert (N, Q) == (reference.N, reference.Q)
    assert pow(reference.PSI, N, Q) == Q - 1
    assert len(magnitudes(4.6)) - 1 == TAIL


def test_values_are_those_at_the_odd_powers() -> None:
    words = polynomial(1)
    values = transformed(words)
    for place in (0, 1, 2, 1000, N - 1):
        assert int(values[place]) == reference.value(words.tolist(), place)
    np.testing.assert_array_equal(restored(values), words)


def test_a_product_of_values_is_the_negacyclic_product() -> None:
    sparse, dense = np.zeros(N, np.uint64), polynomial(2)
    sparse[[0, 1, 2, 17, N - 2, N - 1]] = [3, Q - 1, 2**63, 2**32, Q - 5, 12345]
    product = list(decrypt_product(sparse, dense))
    assert product == reference.multiply(sparse.tolist(), dense.tolist())


def decrypt_product(a: Words, b: Words) -> list[int]:
    """The product by the code: what is left of 0 when a product is subtracted, negated."""

    class Given(UniformWords):
        def take(self, count: int) -> Words:
            return transformed(a)

    (left,) = decrypt(np.zeros((1, N), np.uint64), Given(bytes(32)), transformed(b))
    return [(Q - word) % Q for word in left[0].tolist()]


def test_uniform_words_are_the_streams_however_they_are_taken() -> None:
    key, whole = bytes(range(32)), reference.uniform(bytes(range(32)), 40)
    stream = UniformWords(key)
    assert [*stream.take(7).tolist(), *stream.take(0).tolist(), *stream.take(33).tolist()] == whole


def test_words_that_are_not_below_q_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = iter([[Q, 1, 2**64 - 1, 2], [3, Q + 5], [4]])

    class Stream:
        def update_into(self, data: bytes, out: memoryview) -> None:
            out[:] = b"".join(word.to_bytes(8, "little") for word in next(raw))

    stream = UniformWords(bytes(32))
    monkeypatch.setattr(stream, "_stream", Stream())
    assert stream.take(4).tolist() == [1, 2, 3, 4]


def test_a_stream_has_a_key_of_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        UniformWords(bytes(16))


def test_keys_and_errors_are_small_and_fresh() -> None:
    drawn = gaussian(1 << 16, os.urandom(32))
    assert int(np.abs(drawn).max()) <= TAIL
    assert 4.5 < float(drawn.std()) < 4.7
    assert (drawn != gaussian(1 << 16, os.urandom(32))).any()


@pytest.mark.parametrize("polynomials", [1, 8, 11])
def test_the_sum_of_keys_opens_the_sum_of_ciphertexts(polynomials: int) -> None:
    public, count = os.urandom(32), 3
    blocks = [polynomial(seed).reshape(1, N).repeat(polynomials, 0) for seed in range(count)]
    keys = [elements(gaussian(N, os.urandom(32))) for _ in blocks]
    total, key, plain = (np.zeros(shape, np.uint64) for shape in ((polynomials, N), N, (polynomials, N)))
    for block, secret in zip(blocks, keys, strict=True):
        add_field(total, np.concatenate(list(encrypt(block, UniformWords(public), transformed(secret)))), out=total)
        add_field(key, secret, out=key)
        add_field(plain, block, out=plain)
    opened = np.concatenate(list(decrypt(total, UniformWords(public), transformed(key))))
    np.testing.assert_array_equal(opened, plain)


def test_one_ciphertext_is_that_of_the_reference() -> None:
    """c = a s + m: a key of five terms, so that the schoolbook product is quick."""
    public, secret, block = os.urandom(32), np.zeros(N, np.int64), polynomial(5)
    secret[[0, 9, 4000, 4001, 4095]] = [1, -2, 3, -4, 5]
    (made,) = encrypt(block.reshape(1, N), UniformWords(public), transformed(elements(secret)))
    a = restored(np.array(reference.uniform(public, N), np.uint64)).tolist()
    product = reference.multiply([x % Q for x in secret.tolist()], a)
    wanted = [(x + y) % Q for x, y in zip(product, block.tolist(), strict=True)]
    assert restored(made[0]).tolist() == wanted

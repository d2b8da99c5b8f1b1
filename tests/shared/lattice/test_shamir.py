"""Shares of a vector: any t open it, t - 1 are uniform whatever it is, and they are the reference's."""

import itertools
import os

import numpy as np
import pytest

from tests.shared.lattice import reference
from undersong.shared.lattice.ring import Q, Words
from undersong.shared.lattice.shamir import deal, expanded, interpolated, is_share

SIZES = [(3, 2), (5, 3), (7, 4)]


def dealt(secret: Words, points: tuple[int, ...], threshold: int) -> dict[int, Words]:
    keys = [os.urandom(32) for _ in range(threshold - 1)]
    shares = [*(expanded(key, secret.size) for key in keys), *deal(secret, points, keys)]
    return dict(zip(points, shares, strict=True))


@pytest.mark.parametrize(("holders", "threshold"), SIZES)
def test_any_t_holders_open_it(holders: int, threshold: int) -> None:
    secret = np.random.default_rng(1).integers(0, Q, 33, np.uint64)
    shares = dealt(secret, tuple(range(1, holders + 1)), threshold)
    for chosen in itertools.combinations(shares, threshold):
        some = {point: shares[point] for point in chosen}
        np.testing.assert_array_equal(interpolated(some), secret)
        for place in (0, 32):
            values = {point: int(words[place]) for point, words in some.items()}
            assert reference.shares_at_zero(values) == int(secret[place])
    for chosen in itertools.combinations(shares, threshold - 1):
        assert (interpolated({point: shares[point] for point in chosen}) != secret).all()


def test_holders_that_are_away_get_nothing_and_the_others_open_it() -> None:
    secret = np.array([0, 1, Q - 1], np.uint64)
    shares = dealt(secret, (2, 5, 7, 4), 3)
    np.testing.assert_array_equal(interpolated({point: shares[point] for point in (2, 4, 7)}), secret)


def test_shares_add_up_to_shares_of_the_sum() -> None:
    secrets = np.random.default_rng(2).integers(0, Q, (4, 9), np.uint64)
    shares = [dealt(secret, (1, 2, 3), 2) for secret in secrets]
    total = {k: (sum(share[k].astype(object) for share in shares) % Q).astype(np.uint64) for k in (1, 3)}
    assert interpolated(total).tolist() == (np.sum(secrets.astype(object), axis=0) % Q).tolist()


@pytest.mark.parametrize("secret", [0, Q - 1])
def test_fewer_than_t_shares_are_uniform(secret: int) -> None:
    """Chi-square over the bytes of the second share, which is computed and not drawn: 255 degrees of freedom."""
    share = dealt(np.full(8192, secret, np.uint64), (1, 2, 3), 2)[3]
    counts = np.bincount(share.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 8 * (2 * 255) ** 0.5


@pytest.mark.parametrize(("points", "keys"), [((1, 1, 2), 1), ((0, 1), 1), ((1, 2), 2)])
def test_points_that_open_nothing_are_refused(points: tuple[int, ...], keys: int) -> None:
    with pytest.raises(ValueError, match="point"):
        deal(np.zeros(2, np.uint64), points, [os.urandom(32)] * keys)


def test_only_words_below_q_are_shares() -> None:
    assert is_share(np.array([0, Q - 1], np.uint64))
    assert not is_share(np.array([0, Q], np.uint64))

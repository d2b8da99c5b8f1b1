"""Decoding shares: t + 2e shares correct e wrong ones and name exactly those, whatever is wrong with them."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.shared.secagg.pairwise.parties import Stream
from undersong.shared.fields.field64 import P
from undersong.shared.secagg.pairwise.decoding import decode
from undersong.shared.secagg.pairwise.shares import BadShares, split, well_formed

SECRET = hashlib.sha256(b"secret").digest()


def dealt(n: int, threshold: int, secret: bytes = SECRET, seed: bytes = b"deal") -> dict[int, bytes]:
    return {i + 1: row[0] for i, row in enumerate(split([secret], n, threshold, Stream(seed)))}


def plain(shares: dict[int, bytes], threshold: int) -> bytes:
    """The secret through the first points, in plain Python integers."""
    points = sorted(shares)[:threshold]
    limbs = []
    for limb in range(5):
        value = 0
        for i in points:
            term = int.from_bytes(shares[i][8 * limb : 8 * limb + 8], "little")
            for j in points:
                if j != i:
                    term = term * j * pow(j - i, -1, P) % P
            value = (value + term) % P
        limbs.append(value)
    return b"".join(value.to_bytes(7, "little") for value in limbs)[:32]


def spoiled(share: bytes, how: str, data: st.DataObject) -> bytes:
    if how == "one limb":
        place = 8 * data.draw(st.integers(0, 4))
        value = (int.from_bytes(share[place : place + 8], "little") + data.draw(st.integers(1, P - 1))) % P
        return share[:place] + value.to_bytes(8, "little") + share[place + 8 :]
    if how == "beyond the field":
        place = 8 * data.draw(st.integers(0, 4))
        value = data.draw(st.integers(P, 2**64 - 1))
        return share[:place] + value.to_bytes(8, "little") + share[place + 8 :]
    if how == "length":
        return share[: data.draw(st.integers(0, 39))] + b"x" * data.draw(st.sampled_from([0, 50]))
    other = b"".join(data.draw(st.integers(0, P - 1)).to_bytes(8, "little") for _ in range(5))
    return other if other != share else bytes(40)


@settings(max_examples=examples(150), deadline=None)
@given(st.data())
def test_wrong_shares_within_the_bound_are_corrected_and_named(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    threshold = data.draw(st.integers(1, n))
    secret = data.draw(st.binary(min_size=32, max_size=32))
    every = dealt(n, threshold, secret)
    shares = {i: every[i] for i in sorted(data.draw(st.sets(st.sampled_from(sorted(every)), min_size=threshold)))}
    assert plain(shares, threshold) == secret
    correctable = (len(shares) - threshold) // 2
    wrong = data.draw(st.sets(st.sampled_from(sorted(shares)), max_size=correctable))
    hows = ("one limb", "all limbs", "beyond the field", "length")
    for point in wrong:
        shares[point] = spoiled(shares[point], data.draw(st.sampled_from(hows)), data)
    found = decode(shares, threshold)
    assert (found.secret, found.wrong) == (secret, wrong)
    assert all(well_formed(share) for point, share in shares.items() if point not in wrong)


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(2, 40), st.data())
def test_what_is_malformed_costs_one_share_and_not_two(n: int, data: st.DataObject) -> None:
    """n - t shares may be beyond the field or of another length: they are known to be wrong."""
    threshold = data.draw(st.integers(1, n))
    shares = dealt(n, threshold)
    wrong = data.draw(st.sets(st.sampled_from(range(1, n + 1)), max_size=n - threshold))
    for point in wrong:
        shares[point] = spoiled(shares[point], data.draw(st.sampled_from(["beyond the field", "length"])), data)
    found = decode(shares, threshold)
    assert (found.secret, found.wrong) == (SECRET, wrong)


@settings(max_examples=examples(100), deadline=None)
@given(st.integers(3, 40), st.data())
def test_more_wrong_shares_than_the_bound_never_give_the_secret_with_other_names(n: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, n - 1))
    shares = dealt(n, threshold)
    beyond = (n - threshold) // 2 + 1
    wrong = data.draw(st.sets(st.sampled_from(range(1, n + 1)), min_size=beyond))
    for point in wrong:
        shares[point] = spoiled(shares[point], "all limbs", data)
    try:
        found = decode(shares, threshold)
    except BadShares:
        return
    assert found.secret != SECRET or found.wrong == wrong


def test_liars_who_agree_on_another_secret_are_outvoted() -> None:
    shares, other = dealt(21, 7), dealt(21, 7, hashlib.sha256(b"other").digest(), b"other")
    liars = frozenset(range(2, 9))  # seven of 21: as many as can be corrected
    assert decode(shares | {i: other[i] for i in liars}, 7).wrong == liars


def test_too_few_shares_open_nothing() -> None:
    shares = dealt(9, 5)
    with pytest.raises(BadShares, match="4 well-formed shares where 5"):
        decode({i: shares[i] for i in (1, 4, 7, 9)}, 5)
    with pytest.raises(BadShares):
        decode({}, 1)
    with pytest.raises(BadShares, match="4 well-formed"):
        decode({i: shares[i] for i in (1, 2, 3, 4)} | {5: b"", 6: b"\xff" * 40}, 5)


def test_values_that_are_no_secret_are_refused() -> None:
    """A polynomial whose value at zero has a limb of more than 56 bits opens to no 32 bytes."""
    large = (2**60).to_bytes(8, "little") * 5
    with pytest.raises(BadShares, match="belong together"):
        decode(dict.fromkeys(range(1, 6), large), 1)

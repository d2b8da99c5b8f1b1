"""PINE's laws: sums are exact, honest vectors always pass, and nothing longer than the bound does."""

import math
import secrets
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.shared.vdaf.runs import CTX, Report, report, result, verify
from undersong.shared.fields.field64 import P
from undersong.shared.vdaf.errors import (
    FreshRandomnessNeeded,
    InputNotFinite,
    InputOutOfRange,
    VdafMalformed,
    VdafRejected,
)
from undersong.shared.vdaf.pine import Integers
from undersong.shared.vdaf.pine_instances import Pine64HmacSha256Aes128

FRACTION = 20
BOUND = 1 << FRACTION  # norm 1
NormLie = Callable[[int, int], list[int]]


def scheme(d: int, norm: float = 1.0) -> Pine64HmacSha256Aes128:
    return Pine64HmacSha256Aes128.for_norm(norm, d, num_frac_bits=FRACTION)


def vector_of_norm(d: int, norm: float, seed: int = 0) -> Integers:
    """Random integers whose norm is just not above `norm` units."""
    drawn = np.random.default_rng(seed).normal(size=d)
    vector = np.trunc(drawn * (norm / np.linalg.norm(drawn))).astype(np.int64)
    assert norm * 0.99 - math.sqrt(d) < np.linalg.norm(vector) <= norm
    return vector


# Honest clients


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 100, 1000, 2049])
def test_the_result_is_the_sum(d: int) -> None:
    task = scheme(d)
    vectors = (
        [vector_of_norm(d, BOUND, seed) for seed in range(3)] if d > 1 else [np.array([v]) for v in (-BOUND, 5, 0)]
    )
    total = result(task, [report(task, vector, integers=True) for vector in vectors])
    assert np.array_equal(total, np.sum(vectors, axis=0) / BOUND)


@pytest.mark.parametrize("shares", [2, 3, 5])
def test_any_number_of_aggregators(shares: int) -> None:
    task = Pine64HmacSha256Aes128(64, 3, 7, 10, 3, num_shares=shares, num_proofs=2, num_proofs_norm_equality=2)
    vectors = [[1.5, -2.0, 0.0, 0.25, 0, 0, 7.0], [0, 0, 0, 0, 0, 0, -8.0]]
    assert result(task, [report(task, vector) for vector in vectors]).tolist() == [1.5, -2.0, 0.0, 0.25, 0, 0, -1.0]


def test_honest_vectors_are_never_refused() -> None:
    """300 clients at and below the bound; 10,000 were run once, see docs/verified-inputs.md."""
    task, stream = scheme(6), np.random.default_rng(5)
    extreme = [np.array([BOUND, 0, 0, 0, 0, 0]), np.zeros(6, np.int64), np.array([-1, 1, 0, 0, 0, -BOUND + 1])]
    for run in range(300):
        vector = extreme[run] if run < 3 else vector_of_norm(6, BOUND * stream.choice([1.0, 0.5, 0.001]), run)
        shares = verify(task, report(task, vector, integers=True))
        assert np.array_equal(task.unshard_integers(shares), vector)


@settings(max_examples=examples(25), deadline=None)
@given(
    st.lists(st.floats(-0.5, 0.5), min_size=4, max_size=4).filter(lambda v: all(x == 0 or abs(x) > 1e-300 for x in v))
)
def test_floats_are_rounded_to_the_nearest_step(values: list[float]) -> None:
    task = scheme(4)
    try:
        total = result(task, [report(task, values)])
    except InputOutOfRange:
        assert np.linalg.norm(values) > 1 - 1e-5
    else:
        assert np.abs(total - values).max() <= 0.5 / BOUND


# What a client's own library refuses


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (math.nan, InputNotFinite, "not a finite number"),
        (math.inf, InputNotFinite, "not a finite number"),
        (-math.inf, InputNotFinite, "not a finite number"),
        (5e-324, InputOutOfRange, "subnormal"),
        (1.01, InputOutOfRange, "larger than the norm bound"),
        (1e300, InputOutOfRange, "larger than the norm bound"),
    ],
)
def test_input_that_cannot_be_proved_is_named(value: float, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        report(scheme(3), [0.0, value, 0.0])


@pytest.mark.parametrize(
    "vector",
    [
        np.array([BOUND, 1, 0]),
        np.array([-(2**63), 0, 0]),
        np.array([2**32, 2**32, 0]),
        np.array([BOUND]),
        np.zeros((3, 1), np.int64),
    ],
    ids=["one step too long", "least integer", "square wraps", "too short", "wrong shape"],
)
def test_integers_beyond_the_bound_are_refused(vector: Integers) -> None:
    with pytest.raises(InputOutOfRange):
        report(scheme(3), vector, integers=True)


def test_parameters_that_do_not_fit_the_field_are_refused() -> None:
    for parameters in ((0, 4, 3), (2**31, 4, 0), (2**32, 0, 4), (16, 200, 4)):
        with pytest.raises(ValueError, match=r"positive|bound|field"):
            Pine64HmacSha256Aes128(*parameters, chunk_length=4, chunk_length_norm_equality=2)


def test_too_few_checks_in_range_ask_for_fresh_randomness() -> None:
    """With a tiny alpha an honest vector fails some checks: it is told to try again and not sent as a bad report."""
    task = Pine64HmacSha256Aes128(1000, 0, 50, 8, 8, alpha=0.01)
    with pytest.raises(FreshRandomnessNeeded):
        report(task, np.full(50, 100), integers=True)


# Cheaters, who compute what they like before they shard


class Cheater(Pine64HmacSha256Aes128):
    """A client that lies in every bit it may choose: the squared norm, its complement, the checks' bits."""

    norm_lie: NormLie
    check_lie: str
    claimed: int | None

    def _squared_norm(self, vector: Integers) -> int:
        exact = sum(int(value) ** 2 for value in vector)
        return exact if self.claimed is None else self.claimed

    def _norm_bits(self, squared: int) -> list[int]:
        bits, bound = self.parameters.norm_bits, self.parameters.squared_bound
        return self.norm_lie(squared, bits) + self.norm_lie(bound - squared, bits)

    def _check_bits(self, results: list[int]) -> list[int]:
        """Out-of-range results: "clamp" says success with some number, "confess" says failure."""
        parameters, made = self.parameters, []
        for value in results:
            number = (value + parameters.wr_bound - 1) % P
            good = number < 2 * parameters.wr_bound
            bits = [number >> k & 1 for k in range(parameters.wr_bits)]
            if self.check_lie == "exact":  # the first "bit" carries what the others cannot
                bits[0] += number - sum(bit << k for k, bit in enumerate(bits))
            made += [*bits, int(good or self.check_lie != "confess")]
        return made


def truncated(number: int, bits: int) -> list[int]:
    """The low bits: right modulo a power of two."""
    return [number >> k & 1 for k in range(bits)]


def saturated(number: int, bits: int) -> list[int]:
    """The nearest number that can be said in bits."""
    return truncated(min(max(number, 0), (1 << bits) - 1), bits)


def exact(number: int, bits: int) -> list[int]:
    """The right number, in a first "bit" that is none."""
    said = truncated(number, bits)
    return [said[0] + number - sum(bit << k for k, bit in enumerate(said)), *said[1:]]


def cheat(
    vector: list[int], *, norm_lie: NormLie = truncated, check_lie: str = "clamp", claimed: int | None = None
) -> Report:
    d = len(vector)
    cheater = Cheater.for_norm(1.0, d, num_frac_bits=FRACTION)
    assert cheater.parameters == scheme(d).parameters
    cheater.norm_lie, cheater.check_lie, cheater.claimed = norm_lie, check_lie, claimed
    return report(cheater, np.array(vector, np.int64), integers=True)


@pytest.mark.parametrize("check_lie", ["clamp", "confess", "exact"])
@pytest.mark.parametrize("norm_lie", [truncated, saturated, exact])
@pytest.mark.parametrize("factor", [1 + 2**-19, 1.01, 100])
@pytest.mark.parametrize("claim", ["true", "at the bound", "zero"])
def test_a_vector_beyond_the_bound_is_refused(factor: float, norm_lie: NormLie, check_lie: str, claim: str) -> None:
    d = 12
    vector = np.zeros(d, np.int64)
    vector[:4] = math.ceil(factor * BOUND / 2)
    claimed = {"true": None, "at the bound": BOUND**2, "zero": 0}[claim]
    sent = cheat(vector.tolist(), norm_lie=norm_lie, check_lie=check_lie, claimed=claimed)
    with pytest.raises(VdafRejected):
        verify(scheme(d), sent)


def wrapped(parts: int) -> list[int]:
    """Integers whose squares sum to p and a little more, so that in the field the norm is small."""
    values, rest = [2**31] * (parts - 2), P - (parts - 2) * 2**62
    values.append(math.isqrt(rest))
    values.append(math.isqrt(rest - values[-1] ** 2) + 1)
    assert 0 <= sum(value**2 for value in values) - P <= BOUND**2
    return values


@pytest.mark.parametrize("check_lie", ["clamp", "confess", "exact"])
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_norm_that_wraps_around_the_field_is_refused(parts: int, check_lie: str) -> None:
    """The norm proof holds, since in the field the norm is small: the wraparound checks must catch it."""
    values = wrapped(parts) + [0] * 8
    small = sum(value**2 for value in values) - P
    sent = cheat(values, norm_lie=truncated, check_lie=check_lie, claimed=small)
    with pytest.raises(VdafRejected, match="ranges and wraparound"):
        verify(scheme(len(values)), sent)


def test_the_cheaters_tools_pass_when_they_do_not_cheat() -> None:
    """So that what refuses them above is the lie and not the tool."""
    vector = vector_of_norm(12, 0.99 * BOUND)
    for norm_lie, check_lie in ((truncated, "clamp"), (exact, "exact"), (saturated, "confess")):
        verify(scheme(12), cheat(vector.tolist(), norm_lie=norm_lie, check_lie=check_lie))


# What is changed, mixed or repeated on the way


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_a_changed_bit_anywhere_is_refused(data: st.DataObject) -> None:
    task = scheme(9)
    sent = report(task, vector_of_norm(9, BOUND), integers=True)
    parts = [sent.nonce, sent.public_share, *sent.input_shares]
    where = data.draw(st.integers(0, 3))
    at = data.draw(st.integers(0, 8 * len(parts[where]) - 1))
    changed = bytearray(parts[where])
    changed[at // 8] ^= 1 << at % 8
    parts[where] = bytes(changed)
    with pytest.raises((VdafRejected, VdafMalformed)):
        verify(task, Report(parts[0], parts[1], parts[2:]))


def test_reports_cannot_be_mixed_or_moved() -> None:
    task, vector = scheme(9), vector_of_norm(9, BOUND)
    a, b = (report(task, vector, integers=True) for _ in range(2))
    verify(task, a)
    for mixed in (
        Report(a.nonce, a.public_share, [a.input_shares[0], b.input_shares[1]]),
        Report(a.nonce, b.public_share, a.input_shares),
        Report(b.nonce, a.public_share, a.input_shares),
    ):
        with pytest.raises(VdafRejected):
            verify(task, mixed)
    with pytest.raises(VdafRejected):
        verify(task, a, ctx=b"another round")
    with pytest.raises(VdafMalformed):
        verify(task, Report(a.nonce, a.public_share, a.input_shares[::-1]))


def test_aggregators_that_disagree_refuse() -> None:
    """Another verification key, context or nonce at one of the two, and messages meant for another report."""
    task = scheme(9)
    sent, key, other = report(task, vector_of_norm(9, BOUND), integers=True), bytes(32), secrets.token_bytes(32)
    leader = task.verify_init(key, CTX, 0, None, sent.nonce, sent.public_share, sent.input_shares[0])
    for arguments in ((other, CTX, sent.nonce), (key, b"other", sent.nonce), (key, CTX, other[:16])):
        verify_key, ctx, nonce = arguments
        _, helper = task.verify_init(verify_key, ctx, 1, None, nonce, sent.public_share, sent.input_shares[1])
        with pytest.raises(VdafRejected):
            task.verifier_shares_to_message(CTX, None, [leader[1], helper])
    for message in (bytes(64), secrets.token_bytes(64)):
        with pytest.raises(VdafRejected, match="joint randomness"):
            task.verify_next(CTX, leader[0], message)
    for message in (b"", bytes(63)):
        with pytest.raises(VdafMalformed):
            task.verify_next(CTX, leader[0], message)
    for shares in ([leader[1]], [leader[1], leader[1], leader[1]], [leader[1], leader[1][:-1]]):
        with pytest.raises(VdafMalformed):
            task.verifier_shares_to_message(CTX, None, shares)


def test_a_share_alone_tells_nothing_of_the_vector() -> None:
    """The helper's is seeds; the leader's numbers are the vector plus what only the helper's seed gives."""
    task, zero = scheme(2000), np.zeros(2000, np.int64)
    sent = report(task, zero, integers=True)
    leader = np.frombuffer(sent.input_shares[0], np.uint8, 8 * 2000)
    counts = np.bincount(leader, minlength=256)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 400  # chi-square, 255 degrees: 6 sigma
    assert len(sent.input_shares[1]) == 4 * 32

"""The rules themselves."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.services.keys.domain import (
    Challenge,
    ChallengeUnknown,
    EnrolmentToken,
    PublicKeyInvalid,
    TokenExpired,
    TokenUsed,
    end_of_life,
    parse_public_key,
    with_descendants,
)
from undersong.shared.identity.authority import Subject
from undersong.shared.ids import Digest

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ALICE, BOB = b"a" * 32, b"b" * 32


def token(used_by: bytes | None = None) -> EnrolmentToken:
    return EnrolmentToken("tok_1", Subject("service", "registry"), NOON, used_by)


def test_a_token_ends_at_its_time() -> None:
    token().check(ALICE, NOON - timedelta(microseconds=1))
    with pytest.raises(TokenExpired):
        token().check(ALICE, NOON)


def test_a_used_token_is_for_its_user_only_and_for_ever() -> None:
    token(ALICE).check(ALICE, NOON + timedelta(days=999))
    with pytest.raises(TokenUsed):
        token(ALICE).check(BOB, NOON - timedelta(days=1))


def test_a_challenge_is_for_one_key_and_a_short_time() -> None:
    challenge = Challenge("chl_1", ALICE, b"c", NOON)
    challenge.check(ALICE, NOON - timedelta(seconds=1))
    for key, now in [(BOB, NOON - timedelta(seconds=1)), (ALICE, NOON)]:
        with pytest.raises(ChallengeUnknown):
            challenge.check(key, now)


def test_a_certificate_never_outlives_its_authority() -> None:
    assert end_of_life(NOON, timedelta(days=90), NOON + timedelta(days=10)) == NOON + timedelta(days=10)
    assert end_of_life(NOON, timedelta(days=90), NOON + timedelta(days=100)) == NOON + timedelta(days=90)


@pytest.mark.parametrize("raw", [b"", b"x" * 31, b"x" * 33])
def test_a_public_key_has_32_bytes(raw: bytes) -> None:
    with pytest.raises(PublicKeyInvalid):
        parse_public_key(raw)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20))
def test_descendants_are_the_reachable_ones(edges: list[tuple[int, int]]) -> None:
    children: dict[Digest, list[Digest]] = {}
    for parent, child in edges:
        children.setdefault(Digest(str(parent)), []).append(Digest(str(child)))
    found = with_descendants(Digest("0"), children)
    assert found[0] == "0"
    assert len(found) == len(set(found))
    for each in found:
        assert set(children.get(each, ())) <= set(found)
    for each in found[1:]:
        assert any(each in children.get(parent, ()) for parent in found)

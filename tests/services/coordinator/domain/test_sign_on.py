"""Groups to roles, and names from claims."""

from typing import Any

import pytest

from undersong.services.coordinator.domain.sign_on import GroupRoles, Profile, groups_of, roles_of

GIVEN: dict[str, GroupRoles] = {
    "all": "admin",
    "some": {"scientist": "heart", "owner": ["heart", "lungs"]},
    "star": {"auditor": "*"},
}


@pytest.mark.parametrize(
    ("groups", "roles"),
    [
        ([], set()),
        (["other", "ALL", "all "], set()),
        (["all", "star"], {("admin", "*"), ("auditor", "*")}),
        (["some", "some"], {("scientist", "heart"), ("owner", "heart"), ("owner", "lungs")}),
    ],
)
def test_groups_give_the_roles_that_the_settings_say(groups: list[str], roles: set[tuple[str, str]]) -> None:
    assert roles_of(groups, GIVEN) == roles


@pytest.mark.parametrize("claim", [None, 5, {"all": True}, [["all"]], [None], {"all"}])
def test_what_is_no_list_of_names_is_no_group(claim: object) -> None:
    assert groups_of(claim) == frozenset()


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"preferred_username": "ada", "email": "a@x"}, "ada"),
        ({"preferred_username": " \n", "email": "a@x"}, "a@x"),
        ({"preferred_username": ["ada"], "name": "Ada\u202e\ud800 L\x00"}, "Ada L"),
        ({}, "sub"),
        ({"name": "x" * 500}, "x" * 200),
    ],
)
def test_a_name_is_shown_without_what_does_not_print(claims: dict[str, Any], name: str) -> None:
    first, second = Profile.of({"iss": "i", "sub": "sub", **claims}, "groups").names
    assert first == name
    assert second.endswith(" (sub)")
    assert len(second) <= 200

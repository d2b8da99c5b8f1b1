"""Scopes of tokens: each operation that people may call needs one, and an unknown path is refused."""

import pytest

from tests.hostile.policy import ANYONE, POLICY
from undersong.shared.web.scopes import AREAS, SCOPES, ScopeMissing, check_scopes, scope_of

PEOPLE = ("coordinator", "aggregator", "registry")
"""The services that people's tokens open."""


def operations() -> list[str]:
    return [
        operation
        for service in PEOPLE
        for operation, rule in POLICY[service].items()
        if rule != ANYONE and any(role in rule for role in ("root", "admin", "anybody"))
    ]


def test_each_operation_of_people_needs_a_scope_of_the_list() -> None:
    assert tuple(f"{area}:{act}" for area in AREAS for act in ("read", "write")) == SCOPES
    needed = {operation: scope_of(*operation.split(" ")) for operation in operations()}
    assert [operation for operation, scope in needed.items() if scope is None] == ["GET /v1/me", "DELETE /v1/sign-on"]
    assert set(needed.values()) == {None, *SCOPES}
    assert needed["POST /v1/jobs/validations"] == "jobs:read"
    assert needed["GET /v1/federations/{federation_id}/webhooks"] == "webhooks:read"


@pytest.mark.parametrize(
    ("scopes", "method", "path"),
    [
        (["jobs:read"], "POST", "/v1/jobs"),
        (["jobs:write"], "GET", "/v1/models"),
        (["jobs:read"], "DELETE", "/v1/jobs/{job_id}"),
        (SCOPES, "GET", "/v1/something-new"),
        (SCOPES, "GET", "unmatched"),
        ([], "GET", "/v1/jobs"),
    ],
)
def test_what_no_scope_names_is_refused(scopes: list[str], method: str, path: str) -> None:
    with pytest.raises(ScopeMissing):
        check_scopes(scopes, method, path)
    check_scopes(None, method, path)


def test_writing_includes_reading() -> None:
    check_scopes(["jobs:write"], "GET", "/v1/jobs/{job_id}")
    check_scopes(["jobs:read"], "GET", "/v1/me")

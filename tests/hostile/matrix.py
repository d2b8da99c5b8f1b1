"""The authorisation matrix as a page: ``python -m tests.hostile.matrix`` writes docs/authorisation.md."""

from pathlib import Path
from typing import Final

from tests.hostile.policy import ANYONE, NOTES, POLICY, SELF, allowed
from undersong.shared.web.scopes import scope_of

PAGE: Final = Path(__file__).parents[2] / "docs" / "authorisation.md"
COLUMNS: Final = {
    "coordinator": ("root", "admin", "scientist", "owner", "auditor", "site", "aggregator", "registry"),
    "aggregator": ("root", "admin", "scientist", "owner", "auditor", "site", "coordinator"),
    "keys": ("operator", "site", "coordinator", "aggregator", "registry"),
    "registry": ("root", "admin", "scientist", "owner", "auditor", "site", "coordinator", "aggregator"),
    "helper": ("root", "operator", "site", "coordinator", "aggregator", "registry"),
}
HEAD: Final = """# Who may do what

This page is written from the table that the tests hold every service to, by asking every operation as everybody
(`tests/hostile/test_authorisation.py`). People show a token; sites and services sign their requests. *root* is an
administrator of all federations; the other roles are those in the federation that the thing belongs to. *operator* is
the token of the keys service, which knows no other person.

A token with scopes ([sign-on and tokens](sign-on.md#scopes)) may do what its user may and its scopes name: the column
*scope* has the one that an operation needs. Tokens without scopes need none.

Everybody else is refused: 401 where the kind of credential does not count, 403 for the wrong role, and 404 where the
thing is another federation's, so that no caller learns that it exists. Lists hold the caller's federations only.
"""


def render() -> str:
    """The page."""
    parts = [HEAD]
    for service, rules in POLICY.items():
        columns = COLUMNS[service]
        parts.append(
            f"\n## {service}\n\n| operation | {' | '.join(columns)} | scope | |\n|{' --- |' * (len(columns) + 3)}\n"
        )
        for operation, rule in rules.items():
            may = allowed(service, operation, columns)
            marks = ["open" if rule == ANYONE else "yes" if column in may else "" for column in columns]
            if rule == SELF:
                marks = ["yes" if column in may else "" for column in columns]
            scope = _scope(service, operation, may)
            parts.append(f"| `{operation}` | {' | '.join(marks)} | {scope} | {NOTES.get(operation, '')} |\n")
    return "".join(parts)


def _scope(service: str, operation: str, may: frozenset[str]) -> str:
    """The scope that people's tokens need; the operator's token has none."""
    if POLICY[service][operation] == ANYONE or not may & {"root", "admin", "scientist", "owner", "auditor"}:
        return ""
    scope = scope_of(*operation.split(" "))
    return f"`{scope}`" if scope else "any"


if __name__ == "__main__":
    PAGE.write_text(render())

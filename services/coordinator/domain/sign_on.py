"""Sign-on by OpenID Connect, the rules: which roles a person's groups give, and what a name here may look like."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

RoleName = Literal["admin", "scientist", "owner", "auditor"]
GroupRoles = RoleName | dict[RoleName, str | list[str]]
"""A role in all federations, or roles with the names of federations; "*" is all of them."""
EVERYWHERE: Final = "*"
LONGEST_SUBJECT: Final = 255  # OpenID Connect Core 1.0, section 2
_LONGEST_NAME: Final = 200
_MOST_GROUPS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Profile:
    """What an issuer says of a person: the stable name there, a name to show, and the groups."""

    issuer: str
    subject: str
    name: str
    groups: frozenset[str]

    @classmethod
    def of(cls, claims: Mapping[str, Any], groups_claim: str) -> "Profile":
        """Read the claims of a checked ID token; raises ValueError for a subject that is none."""
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= LONGEST_SUBJECT or not subject.isprintable():
            raise ValueError("the ID token names no subject")
        shown = (claims.get(claim) for claim in ("preferred_username", "email", "name"))
        name = next((each for each in map(_presentable, shown) if each), subject)
        return cls(str(claims["iss"]), subject, name, groups_of(claims.get(groups_claim)))

    @property
    def names(self) -> tuple[str, str]:
        """The name for the account, and the one where another account has it."""
        suffix = f" ({self.subject})"
        return self.name[:_LONGEST_NAME], self.name[: max(_LONGEST_NAME - len(suffix), 0)] + suffix[:_LONGEST_NAME]


def groups_of(claim: object) -> frozenset[str]:
    """Return the groups of a claim: a list of names, or one name; anything else is no group."""
    listed = [claim] if isinstance(claim, str) else claim
    if not isinstance(listed, list):
        return frozenset()
    return frozenset(each for each in listed[:_MOST_GROUPS] if isinstance(each, str))


def roles_of(groups: Iterable[str], given: Mapping[str, GroupRoles]) -> frozenset[tuple[str, str]]:
    """Return the roles that the groups give, each with the name of a federation, or "*"."""
    found: set[tuple[str, str]] = set()
    for group in groups:
        roles = given.get(group)
        if isinstance(roles, str):
            found.add((roles, EVERYWHERE))
        elif roles is not None:
            found |= {(role, name) for role, names in roles.items() for name in _listed(names)}
    return frozenset(found)


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _presentable(claim: object) -> str:
    """Return a name without control characters; empty for none."""
    return "".join(each for each in claim.strip() if each.isprintable()) if isinstance(claim, str) else ""

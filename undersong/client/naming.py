"""Find a thing by its id or name among those that a service listed."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from undersong.client.types import Federation, Model, Version
from undersong.errors import UndersongError
from undersong.shared.names import hint


class Named(Protocol):
    """Anything that has an id and a name."""

    @property
    def id(self) -> str:
        """Return the id, which is unique."""

    @property
    def name(self) -> str:
        """Return the name, which several may share."""


N = TypeVar("N", bound=Named)
FEDERATION_PREFIX = "fed_"
VERSION_PREFIX = "ver_"
MODEL_PREFIX = "mdl_"


def one_named(found: Iterable[N], name: str, noun: str, remedy: str) -> N:
    """Return the one whose id or name is `name`; UndersongError names the near matches, or the ids of several."""
    listed = list(found)
    matches = [item for item in listed if name in (item.id, item.name)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        near = hint(name, (item.name for item in listed))
        raise UndersongError(f"no {noun} is called {name!r}{near}", remedy=remedy)
    ids = ", ".join(item.id for item in matches[:5])
    raise UndersongError(f"{len(matches)} {noun}s are called {name!r}: {ids}", remedy="give the id of one")


def parts_of(name: str) -> tuple[str, str]:
    """Return a model's name and what follows a colon or @: a number, an alias or an id; empty without one.

    Raises UndersongError where one of the two is missing.
    """
    model, sign, wanted = name.partition("@" if "@" in name else ":")
    if sign and not (model and wanted):
        remedy = f"MODEL{sign}ALIAS, MODEL{sign}NUMBER, or the model's name alone for its newest version"
        raise UndersongError(f"{name!r} names no version", remedy=remedy)
    return model, wanted


def one_version(model: Model, versions: Sequence[Version], wanted: str) -> Version:
    """Return the version of this number, alias or id, the newest where none is wanted; raises UndersongError."""
    if not versions:
        raise UndersongError(f"{model.name} has no version yet", remedy="undersong job list shows what trains it")
    if not wanted:
        return max(versions, key=lambda one: one.number)
    named = {model.aliases.get(wanted, wanted), wanted}
    for one in versions:
        if one.id in named or str(one.number) == wanted:
            return one
    remedy = f"undersong model show {shlex.quote(model.name)}"
    raise UndersongError(f"{model.name} has no version {wanted!r}", remedy=remedy)


def one_federation(found: list[Federation], name: str | None) -> Federation:
    """Return the federation with this id or name, without a name the only one; UndersongError otherwise."""
    if name is not None:
        return one_named(found, name, "federation", "undersong federation list")
    if len(found) == 1:
        return found[0]
    remedy = "undersong federation create NAME" if not found else "name one (--federation, or `federation:` in the job)"
    raise UndersongError(f"there are {len(found)} federations", remedy=remedy)


def placed_already(spec: Mapping[str, Any], federation: str | None) -> bool:
    """Tell whether the job document holds an id (or a fault that the service reports) and no other is asked for."""
    if federation is not None or spec.get("federation") is not None:
        return False
    stated = spec.get("federation_id")
    return stated is not None and (not isinstance(stated, str) or stated.startswith(FEDERATION_PREFIX))

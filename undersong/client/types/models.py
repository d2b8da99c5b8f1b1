"""Models, versions, and who moved their aliases."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from undersong.client.types.base import Answer
from undersong.errors import UndersongError


class Model(Answer):
    """A named model; its versions are immutable."""

    id: str
    name: str
    federation_id: str
    aliases: dict[str, str] = Field(default_factory=dict)
    versions: int | None = None
    created_at: datetime | None = None

    @property
    def champion(self) -> "ModelVersion":
        """The version at which the alias champion points."""
        return self.version("champion")

    def version(self, wanted: str | int) -> "ModelVersion":
        """Return the version of this number, alias or id; it is looked up when it is loaded."""
        return ModelVersion(self.id, str(wanted), self._client)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model, by its number, alias or id."""

    model_id: str
    wanted: str
    client: Any = field(repr=False, default=None)

    def load(self, *, ca: str | None = None, recipes: Sequence[Path] = ()) -> Any:
        """Return the version ready to predict, see `load_model` of the client; a coroutine of the asynchronous one."""
        return _client_of(self.client).load_model(f"{self.model_id}@{self.wanted}", ca=ca, recipes=recipes)


class Audit(Answer):
    """A privacy audit of a version; `broken` when its lower bound on epsilon is above the claim."""

    document: dict[str, Any]
    broken: bool = False
    recorded_at: datetime | None = None
    recorded_by: str = ""


class Version(Answer):
    """One immutable version of a model; `audits` are told only of one version."""

    id: str
    model_id: str
    number: int
    content_digest: str
    size: int | None = None
    lineage: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    claim_broken: bool = False
    audits: list[Audit] = Field(default_factory=list)
    created_at: datetime | None = None

    def load(self, *, ca: str | None = None, recipes: Sequence[Path] = ()) -> Any:
        """Return the version ready to predict, see `load_model` of the client; a coroutine of the asynchronous one."""
        return _client_of(self._client).load_model(self.id, ca=ca, recipes=recipes)


def _client_of(client: Any) -> Any:
    if client is None:
        raise UndersongError("this object was not asked for by a client", remedy="client.model(NAME) returns one")
    return client


class AliasChange(Answer):
    """One change of an alias: `by` is a user's id; without `version_id` it was removed."""

    at: datetime
    by: str
    alias: str
    version_id: str | None = None
    before: str | None = None
    reason: str = ""

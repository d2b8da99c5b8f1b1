"""The registry, as the coordinator asks it."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import Field, ValidationError

from undersong.services.coordinator.peers.peer import Answer, Call, PartyAway, PartyRefused, Peer
from undersong.shared.errors import NotFound
from undersong.shared.ids import Digest, FederationId, ModelId, VersionId
from undersong.shared.transparency.datasheet import SignedDatasheet
from undersong.shared.wire.manifest import DataRef


class _Model(Answer):
    id: ModelId
    name: str = ""
    federation_id: FederationId | None = None


class ModelFacts(_Model):
    """A model in the registry: aliases with the versions at which they point, and how many versions there were."""

    aliases: dict[str, VersionId] = Field(default_factory=dict)
    versions: int = 0
    created_at: datetime | None = None


class _Catalogue(Answer):
    items: list[ModelFacts]
    next: str | None = None


class VersionEntry(Answer):
    """A version in a model's list."""

    id: VersionId
    number: int
    content_digest: Digest
    size: int = 0
    lineage: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    created_at: datetime
    claim_broken: bool = False
    deleted_at: datetime | None = None

    @property
    def parents(self) -> tuple[str, ...]:
        """The versions that this one was made of."""
        found = self.lineage.get("parents")
        return tuple(map(str, found)) if isinstance(found, list) else ()


class _Versions(Answer):
    items: list[VersionEntry]
    next: str | None = None


class TensorFacts(Answer):
    """A tensor of a model file."""

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = ""


class AliasMove(Answer):
    """One change of an alias, as the registry's audit trail has it."""

    at: datetime
    by: str
    alias: str
    version_id: VersionId | None = None
    before: VersionId | None = None
    reason: str = ""


class _Moves(Answer):
    items: list[AliasMove]


class _Schema(Answer):
    tensors: list[TensorFacts] = Field(default_factory=list, alias="schema")


class _Models(Answer):
    items: list[_Model]
    next: str | None = None


class _AuditDocument(Answer):
    kind: str = Field(max_length=40)
    sentence: str = Field("", max_length=1000)


class PrivacyAudit(Answer):
    """A privacy audit of a version, as the registry signed it."""

    document: _AuditDocument
    broken: bool
    recorded_at: datetime
    recorded_by: str


class _Ids(Answer):
    items: list[str]


class VersionFacts(Answer):
    """A model version in the registry."""

    id: VersionId
    model_id: ModelId
    federation_id: FederationId
    content_digest: Digest
    number: int = 0
    deleted_at: datetime | None = None
    lineage: dict[str, Any] = Field(default_factory=dict)
    claim_broken: bool = False
    audits: tuple[PrivacyAudit, ...] = ()

    @property
    def trained(self) -> DataRef | None:
        """What it was trained on, if its lineage says so; that of an imported version may say anything."""
        try:
            return DataRef.model_validate(self.lineage["data"])
        except (KeyError, ValidationError):
            return None


class Registry(Peer):
    """The registry."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__(http, "registry")

    async def ensure_model(self, federation_id: FederationId, name: str, key: str) -> ModelId:
        """Return the federation's model of this name, made when there is none."""
        known = await self._find_model(federation_id, name)
        if known is not None:
            return known
        try:
            answer = await self._call(
                Call("POST", "/v1/models", key=key, json={"federation_id": federation_id, "name": name})
            )
        except PartyRefused:
            known = await self._find_model(federation_id, name)  # another request was quicker
            if known is None:
                raise
            return known
        return _Model.model_validate(answer).id

    async def version(self, version_id: str) -> VersionFacts:
        """Return a version; raises NotFound."""
        return VersionFacts.model_validate(await self._call(Call("GET", f"/v1/versions/{version_id}")))

    async def version_document(self, version_id: str) -> dict[str, Any]:
        """Return a version with lineage and signatures, as the registry tells it; raises NotFound."""
        return await self._call(Call("GET", f"/v1/versions/{quote(version_id, safe='')}"))

    async def datasheet(self, version_id: str) -> SignedDatasheet | None:
        """Return the datasheet of a version that is kept there; None where none is, or it is not understood."""
        try:
            answer = await self._call(Call("GET", f"/v1/versions/{quote(version_id, safe='')}/datasheet"))
            return SignedDatasheet.model_validate(answer)
        except (NotFound, ValidationError):
            return None

    async def keep_datasheet(self, signed: SignedDatasheet) -> None:
        """Keep a version's datasheet there. Idempotent; raises NotFound, PartyRefused or PartyAway."""
        path = f"/v1/versions/{quote(signed.datasheet.subject.version_id, safe='')}/datasheet"
        await self._call(Call("PUT", path, json=signed.model_dump(mode="json")))

    async def stale_datasheets(self) -> list[str]:
        """Return versions that were audited after their newest datasheet."""
        return _Ids.model_validate(await self._call(Call("GET", "/v1/datasheets/stale"))).items

    async def model_name(self, model_id: str) -> str:
        """Return a model's name; raises NotFound."""
        return _Model.model_validate(await self._call(Call("GET", f"/v1/models/{quote(model_id, safe='')}"))).name

    async def models(self) -> list[ModelFacts]:
        """Return every model, of all federations."""
        found: list[ModelFacts] = []
        after: dict[str, str] = {}
        while True:
            page = _Catalogue.model_validate(
                await self._call(Call("GET", "/v1/models", params={"limit": "500", **after}))
            )
            found += page.items
            if page.next is None:
                return found
            after = {"after": page.next}

    async def model(self, model_id: str) -> ModelFacts:
        """Return a model with its aliases; raises NotFound."""
        return ModelFacts.model_validate(await self._call(Call("GET", f"/v1/models/{quote(model_id, safe='')}")))

    async def versions(self, model_id: str) -> list[VersionEntry]:
        """Return every version of a model, oldest first; raises NotFound."""
        found: list[VersionEntry] = []
        path, after = f"/v1/models/{quote(model_id, safe='')}/versions", dict[str, str]()
        while True:
            page = _Versions.model_validate(await self._call(Call("GET", path, params={"limit": "500", **after})))
            found += page.items
            if page.next is None:
                return found
            after = {"after": page.next}

    async def tensors(self, version_id: str) -> list[TensorFacts]:
        """Return the tensors of a version; raises NotFound."""
        return _Schema.model_validate(await self.version_document(version_id)).tensors

    async def alias_moves(self, model_id: str, limit: int) -> list[AliasMove]:
        """Return who moved a model's aliases, newest first."""
        path = f"/v1/models/{quote(model_id, safe='')}/alias-changes"
        return _Moves.model_validate(await self._call(Call("GET", path, params={"limit": str(limit)}))).items

    async def set_alias(self, token: str, model_id: str, alias: str, version_id: str, reason: str) -> None:
        """Point an alias at a version, as a person."""
        path = f"/v1/models/{quote(model_id, safe='')}/aliases/{quote(alias, safe='')}"
        await self._call(Call("PUT", path, json={"version_id": version_id, "reason": reason}, token=token))

    async def remove_alias(self, token: str, model_id: str, alias: str) -> None:
        """Remove an alias, as a person."""
        path = f"/v1/models/{quote(model_id, safe='')}/aliases/{quote(alias, safe='')}"
        await self._call(Call("DELETE", path, token=token))

    async def content(self, version_id: str) -> AsyncIterator[bytes]:
        """Yield the parts of a version's model file; raises NotFound or PartyAway before the first."""
        path = f"/v1/versions/{quote(version_id, safe='')}/content"
        try:
            async with self._http.stream("GET", path) as response:
                if not response.is_success:
                    await response.aread()
                    self._read(response)
                async for part in response.aiter_bytes(1 << 18):
                    yield part
        except httpx.HTTPError as error:
            raise PartyAway(f"The registry cannot be reached: {type(error).__name__}.", retry_after_s=2) from error

    async def add_metrics(self, version_id: str, metrics: Mapping[str, float], key: str) -> None:
        """Append an evaluation to a version."""
        await self._call(Call("POST", f"/v1/versions/{version_id}/metrics", key=key, json={"metrics": dict(metrics)}))

    async def _find_model(self, federation_id: FederationId, name: str) -> ModelId | None:
        after: str | None = None
        while True:
            params = {"federation_id": str(federation_id), "name": name, "limit": "100"}
            answer = await self._call(Call("GET", "/v1/models", params=params | ({"after": after} if after else {})))
            page = _Models.model_validate(answer)
            for model in page.items:
                if model.name == name and model.federation_id == federation_id:
                    return model.id
            if page.next is None:
                return None
            after = page.next

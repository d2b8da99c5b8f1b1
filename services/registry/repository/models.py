"""SQL of models, aliases and versions; rows never leave."""

import json
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Select, delete, select, true, update
from sqlalchemy.exc import IntegrityError

from undersong.services.registry.domain import (
    AliasUnknown,
    Audit,
    Content,
    Evaluation,
    ModelUnknown,
    RegisteredModel,
    Signature,
    Tombstone,
    Version,
    VersionUnknown,
)
from undersong.services.registry.tables import (
    AliasRow,
    AuditRow,
    EvaluationRow,
    ModelRow,
    VersionRow,
)
from undersong.shared.database import Page, Transaction, ordering, page
from undersong.shared.errors import no_such
from undersong.shared.ids import Digest, FederationId, ModelId, VersionId


class NaturalKeyTaken(Exception):
    """Another transaction published this version of the model a moment ago."""


class ModelRepository:
    """Models, their aliases and their versions within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._session = tx.session

    async def add_model(self, model: RegisteredModel) -> bool:
        """Store a model; False when the federation has one of this name."""
        values = {
            "id": model.id,
            "federation_id": model.federation_id,
            "name": model.name,
            "versions": 0,
            "created_at": model.created_at,
            "created_by": model.created_by,
        }
        added = self._tx.insert(ModelRow).values(values).on_conflict_do_nothing().returning(ModelRow.id)
        return (await self._session.execute(added)).first() is not None

    async def model(self, model_id: str, *, lock: bool = False) -> RegisteredModel:
        """Return a model with its aliases, with the row locked where asked; raises ModelUnknown."""
        row = await self._session.get(ModelRow, model_id, with_for_update=lock or None)
        if row is None:
            raise no_such("model", model_id, ModelUnknown)
        return _model(row, await self._aliases([row.id]))

    async def models(
        self, federations: frozenset[str] | None, name: str | None, limit: int, after: str | None, sort: str = "created"
    ) -> Page[RegisteredModel]:
        """Models of these federations (None: all), with their aliases, by `created` or `name`."""
        seen = true() if federations is None else ModelRow.federation_id.in_(federations)
        query = select(ModelRow).where(seen)
        if name is not None:
            query = query.where(ModelRow.name == name)
        by, falling = ordering(sort, {"name": ModelRow.name})
        rows = await page(self._session, query, ModelRow.id, limit, after, descending=falling, by=by, within=seen)
        aliases = await self._aliases([row.id for row in rows.items])
        return rows.map(lambda row: _model(row, aliases))

    async def _aliases(self, model_ids: Sequence[str]) -> dict[str, dict[str, VersionId]]:
        found: dict[str, dict[str, VersionId]] = {}
        query = select(AliasRow).where(AliasRow.model_id.in_(model_ids)).order_by(AliasRow.name)
        for row in await self._session.scalars(query):
            found.setdefault(row.model_id, {})[row.name] = VersionId(row.version_id)
        return found

    async def next_number(self, model_id: ModelId) -> int:
        """Return the number of the model's next version, from 0; holds the model's row until the transaction ends."""
        counted = update(ModelRow).where(ModelRow.id == model_id).values(versions=ModelRow.versions + 1)
        return (await self._session.execute(counted.returning(ModelRow.versions))).scalar_one() - 1

    # aliases

    async def set_alias(self, model_id: str, name: str, version_id: str, actor: str) -> None:
        """Point the alias at the version."""
        values = {"version_id": version_id, "set_at": await self._tx.now(), "set_by": actor}
        insert = self._tx.insert(AliasRow).values(model_id=model_id, name=name, **values)
        await self._session.execute(insert.on_conflict_do_update(index_elements=["model_id", "name"], set_=values))

    async def alias(self, model_id: str, name: str) -> VersionId:
        """Return where the alias points; raises AliasUnknown."""
        row = await self._session.get(AliasRow, (model_id, name))
        if row is None:
            raise AliasUnknown(f"The model has no alias {name}.")
        return VersionId(row.version_id)

    async def remove_alias(self, model_id: str, name: str) -> bool:
        """Remove the alias; whether it was there."""
        gone = delete(AliasRow).where(AliasRow.model_id == model_id, AliasRow.name == name).returning(AliasRow.name)
        return (await self._session.execute(gone)).first() is not None

    async def aliases_of(self, version_id: str) -> list[str]:
        """Aliases that point at the version."""
        return list(await self._session.scalars(select(AliasRow.name).where(AliasRow.version_id == version_id)))

    # versions

    async def add_version(self, version: Version, key: str) -> None:
        """Store a version. Raises NaturalKeyTaken where the model has one of this key; the transaction is lost then."""
        self._session.add(
            VersionRow(
                id=version.id,
                model_id=version.model_id,
                federation_id=version.federation_id,
                number=version.number,
                natural_key=key,
                content_digest=version.content.digest,
                tensor_digest=version.content.tensor_digest,
                size=version.content.size,
                tensors=[dict(tensor) for tensor in version.content.tensors],
                lineage=json.dumps(version.lineage, allow_nan=False),
                signatures=[{"role": s.role, "keyid": s.keyid, "signature": s.signature} for s in version.signatures],
                created_at=version.created_at,
                created_by=version.created_by,
            )
        )
        try:
            await self._session.flush()
        except IntegrityError as error:
            raise NaturalKeyTaken(key) from error

    async def version(self, version_id: str, *, lock: bool = False) -> Version:
        """Return a version with its evaluations, deleted or not; raises VersionUnknown."""
        query = select(VersionRow).where(VersionRow.id == version_id)
        found = await self._versions(query.with_for_update() if lock else query)
        if not found:
            raise no_such("model version", version_id, VersionUnknown)
        return found[0]

    async def version_by_key(self, model_id: str, key: str) -> Version | None:
        """Return what was published under this natural key."""
        query = select(VersionRow).where(VersionRow.model_id == model_id, VersionRow.natural_key == key)
        found = await self._versions(query)
        return found[0] if found else None

    async def version_before(self, model_id: str, number: int) -> Version | None:
        """Return the latest living version of the model before this number."""
        query = select(VersionRow).where(VersionRow.model_id == model_id, VersionRow.number < number)
        living = query.where(VersionRow.deleted_at.is_(None)).order_by(VersionRow.number.desc()).limit(1)
        found = await self._versions(living)
        return found[0] if found else None

    async def known_versions(self, ids: Iterable[str]) -> list[Version]:
        """Return those of the versions that exist."""
        return await self._versions(select(VersionRow).where(VersionRow.id.in_(list(ids))))

    async def versions(self, model_id: str, limit: int, after: str | None, sort: str = "number") -> Page[Version]:
        """Return a model's versions by `number`, or with `-number` newest first, deleted ones too; `after` is one."""
        query = select(VersionRow).where(VersionRow.model_id == model_id)
        _, falling = ordering(sort, {})
        rows = await page(self._session, query, VersionRow.number, limit, after, descending=falling)
        ids = [row.id for row in rows.items]
        evaluations, audits = await self._evaluations(ids), await self._audits(ids)
        return rows.map(lambda row: _version(row, evaluations.get(row.id, []), audits.get(row.id, [])))

    async def bury(self, version_id: str, tombstone: Tombstone) -> None:
        """Put the tombstone on a version."""
        buried = update(VersionRow).where(VersionRow.id == version_id, VersionRow.deleted_at.is_(None))
        await self._session.execute(
            buried.values(
                deleted_at=tombstone.deleted_at, deleted_by=tombstone.deleted_by, deletion_reason=tombstone.reason
            )
        )

    async def add_evaluation(self, version_id: str, evaluation: Evaluation) -> None:
        """Append an evaluation."""
        row = EvaluationRow(
            version_id=version_id,
            metrics=dict(evaluation.metrics),
            recorded_at=evaluation.recorded_at,
            recorded_by=evaluation.recorded_by,
        )
        self._session.add(row)
        await self._session.flush()

    async def add_audit(self, version_id: str, audit: Audit) -> None:
        """Append a privacy audit."""
        row = AuditRow(
            version_id=version_id,
            document=json.dumps(audit.document, allow_nan=False),
            recorded_at=audit.recorded_at,
            recorded_by=audit.recorded_by,
            keyid=audit.keyid,
            signature=audit.signature,
        )
        self._session.add(row)
        await self._session.flush()

    async def _versions(self, query: Select[VersionRow]) -> list[Version]:
        rows = (await self._session.scalars(query)).all()
        ids = [row.id for row in rows]
        evaluations, audits = await self._evaluations(ids), await self._audits(ids)
        return [_version(row, evaluations.get(row.id, []), audits.get(row.id, [])) for row in rows]

    async def _audits(self, version_ids: Sequence[str]) -> dict[str, list[Audit]]:
        found: dict[str, list[Audit]] = {}
        if version_ids:
            query = select(AuditRow).where(AuditRow.version_id.in_(version_ids)).order_by(AuditRow.id)
            for row in await self._session.scalars(query):
                document = json.loads(row.document)
                audit = Audit(document, row.recorded_at, row.recorded_by, row.keyid, row.signature)
                found.setdefault(row.version_id, []).append(audit)
        return found

    async def _evaluations(self, version_ids: Sequence[str]) -> dict[str, list[Evaluation]]:
        found: dict[str, list[Evaluation]] = {}
        if version_ids:
            query = select(EvaluationRow).where(EvaluationRow.version_id.in_(version_ids)).order_by(EvaluationRow.id)
            for row in await self._session.scalars(query):
                evaluation = Evaluation(row.metrics, row.recorded_at, row.recorded_by)
                found.setdefault(row.version_id, []).append(evaluation)
        return found


def _model(row: ModelRow, aliases: Mapping[str, Mapping[str, VersionId]]) -> RegisteredModel:
    return RegisteredModel(
        id=ModelId(row.id),
        federation_id=FederationId(row.federation_id),
        name=row.name,
        versions=row.versions,
        created_at=row.created_at,
        created_by=row.created_by,
        aliases=aliases.get(row.id, {}),
    )


def _version(row: VersionRow, evaluations: Sequence[Evaluation], audits: Sequence[Audit]) -> Version:
    tombstone = None
    if row.deleted_at is not None:
        tombstone = Tombstone(row.deleted_at, row.deleted_by or "", row.deletion_reason or "")
    return Version(
        id=VersionId(row.id),
        model_id=ModelId(row.model_id),
        federation_id=FederationId(row.federation_id),
        number=row.number,
        content=Content(Digest(row.content_digest), row.size, Digest(row.tensor_digest), row.tensors),
        lineage=json.loads(row.lineage),
        signatures=[Signature(**signature) for signature in row.signatures],
        created_at=row.created_at,
        created_by=row.created_by,
        tombstone=tombstone,
        evaluations=evaluations,
        audits=audits,
    )

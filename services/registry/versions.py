"""Versions: published once, never changed, deleted with a tombstone."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from undersong.services.registry.access import (
    Asker,
    check_auditor,
    check_reader,
    check_writer,
    name_of,
    no_model,
    no_version,
)
from undersong.services.registry.contents import Contents
from undersong.services.registry.domain import (
    Audit,
    Content,
    ContentDamaged,
    Evaluation,
    ParentUnknown,
    RegisteredModel,
    Signature,
    Tombstone,
    Version,
    VersionInUse,
    check_same,
    check_shapes,
    natural_key,
)
from undersong.services.registry.publishers import Publishers
from undersong.services.registry.repository.actions import ActionRepository
from undersong.services.registry.repository.contents import ContentRepository
from undersong.services.registry.repository.models import ModelRepository, NaturalKeyTaken
from undersong.services.registry.views import AuditRequest, MetricsRequest, VersionRequest, VersionSummary, VersionView
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.errors import FieldError
from undersong.shared.faults import point
from undersong.shared.identity.authority import Identity
from undersong.shared.ids import ModelId, VersionId, new_id
from undersong.shared.web.idempotency import Once
from undersong.shared.wire.manifest import AUDIT_CONTEXT, VERSION_CONTEXT, audit_statement, version_statement


class Versions:
    """Model versions; `signer` gives the registry's present identity, which countersigns each."""

    def __init__(
        self, database: Database, contents: Contents, publishers: Publishers, signer: Callable[[], Identity]
    ) -> None:
        self._database = database
        self._contents = contents
        self._publishers = publishers
        self._signer = signer

    async def publish(self, asker: Asker, model_id: str, request: VersionRequest) -> tuple[VersionView, bool]:
        """Return a new version, and True; or the one that this round has published already, and False.

        Everything that takes time (reading the file, signatures) happens before the one short transaction.
        """
        lineage = request.lineage.as_signed()
        key = natural_key(request.lineage.job_id, request.lineage.round_id, request.content_digest)
        model, present, parents = await self._look(asker, model_id, key, request)
        if present is not None:
            return VersionView.of(check_same(present, request.content_digest, lineage)), False
        signatures = await self._publishers.check(asker, model.id, request)
        content = await self._contents.inspect(request.content_digest, model.federation_id)
        if request.lineage.kind == "train" and parents:
            check_shapes(content, parents[0])
        signatures.append(self._countersign(model.id, request))

        async def work(tx: Transaction) -> Version:
            return await _store(tx, asker, model, _draft(model, content, lineage, signatures, await tx.now()), key)

        try:
            version = await self._database.run("version.publish", work)
            point("registry.version.committed")
            return VersionView.of(version), True
        except NaturalKeyTaken:  # another request was quicker with the same round
            _, present, _ = await self._look(asker, model_id, key, request)
            if present is None:
                raise
            return VersionView.of(check_same(present, request.content_digest, lineage)), False

    async def _look(
        self, asker: Asker, model_id: str, key: str, request: VersionRequest
    ) -> tuple[RegisteredModel, Version | None, list[Version]]:
        async def work(tx: Transaction) -> tuple[RegisteredModel, Version | None, list[Version]]:
            repository = ModelRepository(tx)
            model = await repository.model(model_id)
            check_reader(asker, model.federation_id, no_model(model_id))
            check_writer(asker, model.federation_id)
            present = await repository.version_by_key(model.id, key)
            if present is not None:
                return model, present, []
            return model, None, await _parents(repository, model, request.lineage.parents)

        return await self._database.read("version.look", work)

    def _countersign(self, model_id: ModelId, request: VersionRequest) -> Signature:
        identity = self._signer()
        statement = version_statement(model_id, request.content_digest, request.lineage.as_signed())
        signature = identity.sign(VERSION_CONTEXT, statement[len(VERSION_CONTEXT) :])
        return Signature("registry", identity.keyid, signature.hex())

    async def load(self, asker: Asker, version_id: str) -> Version:
        """Return a version that the asker may see, deleted or not; raises VersionUnknown."""

        async def work(tx: Transaction) -> Version:
            version = await ModelRepository(tx).version(version_id)
            check_reader(asker, version.federation_id, no_version(version_id))
            return version

        return await self._database.read("version.get", work)

    async def readable_content(self, asker: Asker, version_id: str, *, last_good: bool) -> Version:
        """Return the living version, whose file was found to be the right one; raises ContentDamaged.

        With `last_good`, where it is not: the latest earlier version of the model whose file is.
        """
        version = (await self.load(asker, version_id)).alive()
        while not await self._is_good(version, last_good=last_good):
            earlier = await self._before(version)
            if earlier is None:
                await self._contents.verify(version.content.digest)  # raises again
                break
            version = earlier
        return version

    async def _is_good(self, version: Version, *, last_good: bool) -> bool:
        try:
            await self._contents.verify(version.content.digest)
        except ContentDamaged:
            if not last_good:
                raise
            return False
        return True

    async def _before(self, version: Version) -> Version | None:
        async def work(tx: Transaction) -> Version | None:
            return await ModelRepository(tx).version_before(version.model_id, version.number)

        return await self._database.read("version.before", work)

    async def get(self, asker: Asker, version_id: str) -> VersionView:
        """Return the whole version."""
        return VersionView.of(await self.load(asker, version_id))

    async def page(
        self, asker: Asker, model_id: str, limit: int, after: int | None, sort: str = "number"
    ) -> Page[VersionSummary]:
        """Return a model's versions in order."""

        async def work(tx: Transaction) -> Page[VersionSummary]:
            repository = ModelRepository(tx)
            check_reader(asker, (await repository.model(model_id)).federation_id, no_model(model_id))
            bound = None if after is None else str(after)
            return (await repository.versions(model_id, limit, bound, sort)).map(VersionSummary.of)

        return await self._database.read("version.page", work)

    async def evaluate(self, asker: Asker, version_id: str, request: MetricsRequest, once: Once) -> VersionView:
        """Append metrics measured after publication."""

        async def work(tx: Transaction) -> VersionView:
            repository = ModelRepository(tx)
            version = await self._writable(repository, asker, version_id)
            evaluation = Evaluation(request.metrics, await tx.now(), name_of(asker))
            await repository.add_evaluation(version.alive().id, evaluation)
            return VersionView.of(replace(version, evaluations=[*version.evaluations, evaluation]))

        return await self._database.run("version.evaluate", once(work))

    async def audit(self, asker: Asker, version_id: str, request: AuditRequest, once: Once) -> VersionView:
        """Append a privacy audit, countersigned; a bound above its claim marks the version."""

        async def work(tx: Transaction) -> VersionView:
            repository = ModelRepository(tx)
            version = await repository.version(version_id, lock=True)
            check_reader(asker, version.federation_id, no_version(version_id))
            check_auditor(asker, version.federation_id)
            made = self._signed(version.alive().id, request, await tx.now(), name_of(asker))
            await repository.add_audit(version.id, made)
            detail = {"kind": request.kind, "broken": made.broken}
            await ActionRepository(tx).record(made.recorded_by, "version.audited", version.id, **detail)
            return VersionView.of(replace(version, audits=[*version.audits, made]))

        return await self._database.run("version.audit", once(work))

    def _signed(self, version_id: VersionId, request: AuditRequest, now: datetime, by: str) -> Audit:
        identity, document = self._signer(), request.model_dump(mode="json", exclude_unset=True)
        statement = audit_statement(version_id, document, by, now.isoformat())
        signature = identity.sign(AUDIT_CONTEXT, statement[len(AUDIT_CONTEXT) :])
        return Audit(document, now, by, identity.keyid, signature.hex())

    async def delete(self, asker: Asker, version_id: str, reason: str) -> None:
        """Put a tombstone on a version; its content goes a day later. A second time does nothing. VersionInUse."""

        async def work(tx: Transaction) -> None:
            repository = ModelRepository(tx)
            version = await self._writable(repository, asker, version_id)
            if version.tombstone is not None:
                return
            if aliases := await repository.aliases_of(version.id):
                raise VersionInUse(f"Aliases point at the version: {', '.join(sorted(aliases))}.")
            await repository.bury(version.id, Tombstone(await tx.now(), name_of(asker), reason))
            await ActionRepository(tx).record(name_of(asker), "version.deleted", version.id, reason=reason)

        await self._database.run("version.delete", work)

    async def _writable(self, repository: ModelRepository, asker: Asker, version_id: str) -> Version:
        version = await repository.version(version_id, lock=True)
        check_reader(asker, version.federation_id, no_version(version_id))
        check_writer(asker, version.federation_id)
        return version


def _draft(
    model: RegisteredModel, content: Content, lineage: dict[str, object], signatures: list[Signature], now: datetime
) -> Version:
    return Version(
        id=VersionId(new_id("ver")),
        model_id=model.id,
        federation_id=model.federation_id,
        number=-1,
        content=content,
        lineage=lineage,
        signatures=signatures,
        created_at=now,
        created_by="",
    )


async def _store(tx: Transaction, asker: Asker, model: RegisteredModel, draft: Version, key: str) -> Version:
    repository = ModelRepository(tx)
    await ContentRepository(tx).hold_content(draft.content.digest, model.federation_id)
    number = await repository.next_number(model.id)
    version = replace(draft, number=number, created_by=name_of(asker))
    await repository.add_version(version, key)
    await ActionRepository(tx).record(name_of(asker), "version.published", version.id, model_id=model.id, number=number)
    return version


async def _parents(repository: ModelRepository, model: RegisteredModel, ids: list[str]) -> list[Version]:
    """Return the parents in the order named; they live, and belong to the model's federation."""
    found = {version.id: version for version in await repository.known_versions(ids)}
    errors = []
    for index, parent_id in enumerate(ids):
        parent = found.get(VersionId(parent_id))
        if parent is None or parent.federation_id != model.federation_id or parent.tombstone is not None:
            errors.append(FieldError(f"/lineage/parents/{index}", "is unknown, deleted, or of another federation"))
    if errors:
        raise ParentUnknown("Parents of the version are not usable.", errors=errors)
    return [found[VersionId(parent_id)] for parent_id in ids]

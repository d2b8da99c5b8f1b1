"""Models and their aliases."""

from undersong.services.registry.access import (
    Asker,
    check_reader,
    check_writer,
    name_of,
    no_model,
    no_version,
    readable,
)
from undersong.services.registry.domain import AliasUnknown, ClaimRefuted, ModelNameTaken, RegisteredModel
from undersong.services.registry.repository.actions import ActionRepository
from undersong.services.registry.repository.models import ModelRepository
from undersong.services.registry.views import AliasChangeView, ModelRequest, ModelView
from undersong.shared.database import Database, Page, Transaction
from undersong.shared.ids import FederationId, ModelId, VersionId, new_id
from undersong.shared.web.idempotency import Once


class Models:
    """Named lines of versions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, asker: Asker, request: ModelRequest, once: Once) -> ModelView:
        """Return a new model; raises ModelNameTaken."""
        check_writer(asker, request.federation_id)

        async def work(tx: Transaction) -> ModelView:
            repository = ModelRepository(tx)
            model = RegisteredModel(
                id=ModelId(new_id("mdl")),
                federation_id=FederationId(request.federation_id),
                name=request.name,
                versions=0,
                created_at=await tx.now(),
                created_by=name_of(asker),
                aliases={},
            )
            if not await repository.add_model(model):
                raise ModelNameTaken(f"The federation has a model named {request.name}.")
            await ActionRepository(tx).record(name_of(asker), "model.created", model.id, name=request.name)
            return ModelView.of(model)

        return await self._database.run("model.create", once(work))

    async def get(self, asker: Asker, model_id: str) -> ModelView:
        """Return a model with its aliases; raises ModelUnknown."""

        async def work(tx: Transaction) -> ModelView:
            model = await ModelRepository(tx).model(model_id)
            check_reader(asker, model.federation_id, no_model(model_id))
            return ModelView.of(model)

        return await self._database.read("model.get", work)

    async def page(
        self,
        asker: Asker,
        federation_id: str | None,
        name: str | None,
        limit: int,
        after: str | None,
        sort: str = "created",
    ) -> Page[ModelView]:
        """Return the models that the asker may see."""
        federations = readable(asker)
        if federation_id is not None:
            wanted = frozenset({federation_id})
            federations = wanted if federations is None else federations & wanted

        async def work(tx: Transaction) -> Page[ModelView]:
            return (await ModelRepository(tx).models(federations, name, limit, after, sort)).map(ModelView.of)

        return await self._database.read("model.page", work)

    async def set_alias(self, asker: Asker, model_id: str, alias: str, version_id: str, reason: str = "") -> ModelView:
        """Point an alias at one of the model's living versions; the audit trail keeps who, when and why."""

        async def work(tx: Transaction) -> ModelView:
            repository = ModelRepository(tx)
            model = await repository.model(model_id, lock=True)
            check_reader(asker, model.federation_id, no_model(model_id))
            check_writer(asker, model.federation_id)
            version = await repository.version(version_id, lock=True)
            if version.model_id != model.id:
                raise no_version(version_id)
            version = version.alive()
            if version.claim_broken:
                raise ClaimRefuted(f"An audit refuted the privacy claim of version {version.number}: choose another.")
            if model.aliases.get(alias) != version.id:
                await repository.set_alias(model.id, alias, version.id, name_of(asker))
                before = model.aliases.get(alias)
                told = {"alias": alias, "version_id": version.id, "before": before, "reason": reason}
                await ActionRepository(tx).record(name_of(asker), "alias.set", model.id, **told)
            return ModelView.of(await repository.model(model_id))

        return await self._database.run("alias.set", work)

    async def remove_alias(self, asker: Asker, model_id: str, alias: str) -> None:
        """Remove an alias; a second time does nothing."""

        async def work(tx: Transaction) -> None:
            repository = ModelRepository(tx)
            model = await repository.model(model_id, lock=True)
            check_reader(asker, model.federation_id, no_model(model_id))
            check_writer(asker, model.federation_id)
            if await repository.remove_alias(model.id, alias):
                await ActionRepository(tx).record(name_of(asker), "alias.removed", model.id, alias=alias)

        await self._database.run("alias.remove", work)

    async def alias_changes(self, asker: Asker, model_id: str, limit: int, after: str | None) -> Page[AliasChangeView]:
        """Return where the model's aliases pointed, and who moved them when and why, newest first."""

        async def work(tx: Transaction) -> Page[AliasChangeView]:
            model = await ModelRepository(tx).model(model_id)
            check_reader(asker, model.federation_id, no_model(model_id))
            actions = await ActionRepository(tx).of_subject(model.id, ("alias.set", "alias.removed"), limit, after)
            return actions.map(AliasChangeView.of)

        return await self._database.read("alias.changes", work)

    async def resolve(self, asker: Asker, model_id: str, alias: str) -> VersionId:
        """Return the version that an alias points at; raises AliasUnknown."""

        async def work(tx: Transaction) -> VersionId:
            repository = ModelRepository(tx)
            model = await repository.model(model_id)
            check_reader(asker, model.federation_id, no_model(model_id))
            version_id = model.aliases.get(alias)
            if version_id is None:
                raise AliasUnknown(f"The model has no alias {alias}.")
            return version_id

        return await self._database.read("alias.resolve", work)

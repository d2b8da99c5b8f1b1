"""Models as the registry knows them, for people of the coordinator's dashboard."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from undersong.services.coordinator.domain.comparison import SettingDifference, differing
from undersong.services.coordinator.peers.registry import AliasMove, ModelFacts, Registry, TensorFacts, VersionEntry
from undersong.services.coordinator.repository.accounts import AccountRepository
from undersong.services.coordinator.repository.jobs import JobRepository
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import NotFound, no_such
from undersong.shared.ids import JobId
from undersong.shared.web.access import Principal, Role

MOST_MOVES: Final = 20  # changes of aliases on a model's page


@dataclass(frozen=True, slots=True)
class VersionsCompared:
    """Two versions of one model: settings of their jobs and tensors that differ, by path and by name."""

    first: VersionEntry
    second: VersionEntry
    settings: tuple[SettingDifference, ...]
    tensors: tuple[tuple[str, TensorFacts | None, TensorFacts | None], ...]


class ModelCatalogue:
    """Reads as the coordinator, for what the person may see; writes with the person's own token."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database, self._registry = database, registry

    async def models(self, person: Principal) -> Sequence[ModelFacts]:
        """Return the models of the person's federations, the newest first."""
        within = person.federations()
        found = [each for each in await self._registry.models() if within is None or each.federation_id in within]
        return sorted(found, key=lambda each: each.id, reverse=True)

    async def model(self, person: Principal, model_id: str) -> tuple[ModelFacts, Sequence[VersionEntry]]:
        """Return a model with all its versions, oldest first; raises NotFound."""
        model = await self._seen(person, model_id)
        return model, await self._registry.versions(model.id)

    async def compare(self, person: Principal, model_id: str, numbers: tuple[int, int]) -> VersionsCompared:
        """Return what distinguishes two versions, by number; raises NotFound."""
        _, versions = await self.model(person, model_id)
        known = {each.number: each for each in versions}
        missing = [number for number in numbers if number not in known]
        if missing:
            raise NotFound(f"The model has no version {missing[0]}.")
        first, second = (known[number] for number in numbers)
        tensors = [{each.name: each for each in await self._registry.tensors(one.id)} for one in (first, second)]
        changed = [
            (name, tensors[0].get(name), tensors[1].get(name))
            for name in dict.fromkeys([*tensors[0], *tensors[1]])
            if tensors[0].get(name) != tensors[1].get(name)
        ]

        async def work(tx: Transaction) -> list[SettingDifference]:
            specs = []
            for job_id in (first.lineage.get("job_id"), second.lineage.get("job_id")):
                try:
                    job = await JobRepository(tx).get(JobId(str(job_id)))
                except NotFound:
                    return []
                specs.append(job.spec.model_dump(mode="json"))
            return differing(specs)

        settings = await self._database.read("versions.compare", work)
        return VersionsCompared(first, second, tuple(settings), tuple(changed))

    async def moves(self, person: Principal, model_id: str) -> Sequence[AliasMove]:
        """Return the newest changes of a model's aliases, with the names of the users who made them."""
        await self._seen(person, model_id)
        found = await self._registry.alias_moves(model_id, MOST_MOVES)

        async def work(tx: Transaction) -> dict[str, str]:
            accounts, names = AccountRepository(tx), dict[str, str]()
            for user_id in sorted({each.by for each in found}):
                with suppress(NotFound):
                    names[user_id] = (await accounts.user(user_id)).name
            return names

        names = await self._database.read("aliases.names", work)
        return [each.model_copy(update={"by": names.get(each.by, each.by)}) for each in found]

    async def point(self, token: str, model_id: str, alias: str, version_id: str, reason: str) -> None:
        """Point an alias at a version, as the person whose token this is; the registry decides and records it."""
        await self._registry.set_alias(token, model_id, alias, version_id, reason)

    async def remove_alias(self, token: str, model_id: str, alias: str) -> None:
        """Remove an alias, as the person whose token this is. Idempotent."""
        await self._registry.remove_alias(token, model_id, alias)

    async def content(self, person: Principal, version_id: str) -> tuple[str, AsyncIterator[bytes]]:
        """Return a version's file name and its model file in parts; raises NotFound."""
        version = await self._registry.version(version_id)
        person.check(*Role, federation_id=version.federation_id, hidden=no_such("model version", version_id))
        name = await self._registry.model_name(version.model_id)
        return f"{name}-{version.number}.safetensors", self._registry.content(version_id)

    async def _seen(self, person: Principal, model_id: str) -> ModelFacts:
        """Return a model that the person may see; raises NotFound for another."""
        model = await self._registry.model(model_id)
        person.check(*Role, federation_id=model.federation_id or "", hidden=no_such("model", model_id))
        return model

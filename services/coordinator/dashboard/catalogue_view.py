"""What one person may see and do about models: the calls of the registry, with the person's rights."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from undersong.services.coordinator.model_catalogue import ModelCatalogue, VersionsCompared
from undersong.services.coordinator.peers.registry import AliasMove, ModelFacts, VersionEntry
from undersong.shared.web.access import Principal, Role


class ModelPages(Protocol):
    """What pages ask about models. Calls raise NotFound for what the person may not see."""

    async def all(self) -> Sequence[ModelFacts]:
        """Return the models of the person's federations."""

    async def model(self, model_id: str) -> tuple[ModelFacts, Sequence[VersionEntry]]:
        """Return a model with its versions, oldest first."""

    def may_write(self, model: ModelFacts) -> bool:
        """Return whether the person may change the model's aliases."""

    async def compare(self, model_id: str, numbers: tuple[int, int]) -> VersionsCompared:
        """Return what distinguishes two versions."""

    async def moves(self, model_id: str) -> Sequence[AliasMove]:
        """Return the newest changes of a model's aliases."""

    async def point(self, token: str, model_id: str, alias: str, version_id: str, reason: str) -> None:
        """Point an alias at a version."""

    async def remove_alias(self, token: str, model_id: str, alias: str) -> None:
        """Remove an alias."""

    async def content(self, version_id: str) -> tuple[str, AsyncIterator[bytes]]:
        """Return a file name and the parts of a version's model file."""


@dataclass(frozen=True, slots=True)
class CatalogueView:
    """Over the coordinator's catalogue."""

    person: Principal
    catalogue: ModelCatalogue

    async def all(self) -> Sequence[ModelFacts]:
        """Return the models of the person's federations, the newest first."""
        return await self.catalogue.models(self.person)

    async def model(self, model_id: str) -> tuple[ModelFacts, Sequence[VersionEntry]]:
        """Return a model with its versions, oldest first."""
        return await self.catalogue.model(self.person, model_id)

    def may_write(self, model: ModelFacts) -> bool:
        """Return whether the person may change the model's aliases: a scientist of its federation."""
        return self.person.may(Role.SCIENTIST, federation_id=model.federation_id)

    async def compare(self, model_id: str, numbers: tuple[int, int]) -> VersionsCompared:
        """Return what distinguishes two versions."""
        return await self.catalogue.compare(self.person, model_id, numbers)

    async def moves(self, model_id: str) -> Sequence[AliasMove]:
        """Return the newest changes of a model's aliases."""
        return await self.catalogue.moves(self.person, model_id)

    async def point(self, token: str, model_id: str, alias: str, version_id: str, reason: str) -> None:
        """Point an alias at a version, with the person's token."""
        await self.catalogue.point(token, model_id, alias, version_id, reason)

    async def remove_alias(self, token: str, model_id: str, alias: str) -> None:
        """Remove an alias, with the person's token."""
        await self.catalogue.remove_alias(token, model_id, alias)

    async def content(self, version_id: str) -> tuple[str, AsyncIterator[bytes]]:
        """Return a file name and the parts of a version's model file."""
        return await self.catalogue.content(self.person, version_id)

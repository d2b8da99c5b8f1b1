"""Models for the pages, as plain values: two jobs made five versions, one of them deleted."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from undersong.services.coordinator.domain.comparison import SettingDifference
from undersong.services.coordinator.model_catalogue import VersionsCompared
from undersong.services.coordinator.peers.registry import AliasMove, ModelFacts, TensorFacts, VersionEntry
from undersong.shared.errors import NotFound

AT = datetime(2026, 11, 2, tzinfo=UTC)


def make_version(number: int, **changes: Any) -> VersionEntry:
    """Return the version of this number, made of the one before."""
    lineage = {"kind": "train" if number else "initialise", "job_id": f"job_{1 + number // 3}", "contributors": 4,
               "parents": [f"ver_{number - 1}"] if number else [], "round_id": f"rnd_{number}"}  # fmt: skip
    metrics = {} if number == 0 else {"auc": (0.7, 0.8, 0.9, 0.85)[(number - 1) % 4], "loss": 1 / number}
    facts = {"id": f"ver_{number}", "number": number, "content_digest": "ab" * 32, "size": 4096, "lineage": lineage,
             "metrics": metrics, "created_at": AT + timedelta(hours=number)}  # fmt: skip
    return VersionEntry.model_validate(facts | changes)


@dataclass
class PlainModels:
    """In place of `CatalogueView`."""

    writes: bool = True
    model_: ModelFacts = field(
        default_factory=lambda: ModelFacts.model_validate(
            {
                "id": "mdl_1",
                "name": "heart <b>",
                "federation_id": "fed_01hearts",
                "aliases": {"champion": "ver_3"},
                "versions": 5,
                "created_at": AT,
            }
        )
    )
    versions: list[VersionEntry] = field(
        default_factory=lambda: [*map(make_version, range(4)), make_version(4, deleted_at=AT, claim_broken=True)]
    )
    done: list[tuple[str, ...]] = field(default_factory=list)
    listed: list[ModelFacts] | None = None

    async def all(self) -> list[ModelFacts]:
        return [self.model_] if self.listed is None else self.listed

    async def model(self, model_id: str) -> tuple[ModelFacts, list[VersionEntry]]:
        if model_id != self.model_.id:
            raise NotFound("There is no such model.")
        return self.model_, self.versions

    def may_write(self, model: ModelFacts) -> bool:
        return self.writes and model.id == "mdl_1"

    async def compare(self, _model_id: str, numbers: tuple[int, int]) -> VersionsCompared:
        first, second = (self.versions[number] for number in numbers)
        tensors = (("bias", None, TensorFacts(name="bias", shape=(3,), dtype="F32")),)
        return VersionsCompared(first, second, (SettingDifference("/rounds", (1, None)),), tensors)

    async def moves(self, _model_id: str) -> list[AliasMove]:
        facts = {"at": AT, "by": "ada <b>", "alias": "champion", "version_id": "ver_3", "before": "ver_1"}
        return [AliasMove.model_validate(facts | {"reason": "the best"})]

    async def point(self, token: str, model_id: str, alias: str, version_id: str, reason: str) -> None:
        self.done.append(("point", token, model_id, alias, version_id, reason))

    async def remove_alias(self, token: str, model_id: str, alias: str) -> None:
        self.done.append(("remove", token, model_id, alias))

    async def content(self, version_id: str) -> tuple[str, AsyncIterator[bytes]]:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            yield version_id.encode()

        return "heart ä-3.safetensors", parts()

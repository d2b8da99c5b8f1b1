"""The registry of engines: their facts at once, their code when a round or a record needs it."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from undersong.shared.names import hint
from undersong.shared.secagg.facts import EngineFacts, EngineUnknown
from undersong.shared.secagg.floors import NO_FLOORS, Floors, Objection, OwnerSection
from undersong.shared.secagg.pairwise.facts import FACTS as PAIRWISE
from undersong.shared.secagg.pairwise.floors import PairwiseFloors
from undersong.shared.secagg.sealed.facts import FACTS as SEALED
from undersong.shared.secagg.twoserver.facts import FACTS as TWOSERVER
from undersong.shared.wire.manifest import RoundManifest

if TYPE_CHECKING:  # it brings NumPy
    from undersong.shared.secagg.audit import EngineAudit
    from undersong.shared.secagg.engine import Engine

_REGISTERED: Final = (PAIRWISE, SEALED, TWOSERVER)
ENGINES: Final[Mapping[str, EngineFacts]] = MappingProxyType({facts.name: facts for facts in _REGISTERED})
DEFAULT_ENGINE: Final = PAIRWISE.name
PUBLIC_ENGINE: Final = SEALED.name
"""For what is no secret anyway: the first model of a job, which depends on no data."""


class EngineFloors(BaseModel):
    """What a site's owner demands of rounds, engine by engine: sections of the policy file, named like the engines."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    pairwise: PairwiseFloors = Field(
        PairwiseFloors(), description="What rounds of engine `pairwise` must be planned for"
    )

    def section(self, engine: str) -> OwnerSection | None:
        """Return the section of this engine; None where an owner has nothing to say about it."""
        found = getattr(self, engine) if engine in EngineFloors.model_fields else None
        return found if isinstance(found, OwnerSection) else None

    def objections(self, manifest: RoundManifest) -> Sequence[Objection]:
        """Return what speaks against the plan of this round."""
        section = self.section(manifest.engine)
        return () if section is None else section.objections(manifest)

    def floors(self, engine: str) -> Floors:
        """Return what this engine's client demands once the participants are known."""
        section = self.section(engine)
        return NO_FLOORS if section is None else section.floors()


def engine_facts(name: str) -> EngineFacts:
    """Return the facts of the engine of this name; raises `EngineUnknown`."""
    try:
        return ENGINES[name]
    except KeyError:
        raise EngineUnknown(f"engine {name!r} is unknown{hint(name, ENGINES)}") from None


def names_of(facts: Iterable[EngineFacts]) -> str:
    """Return the engines' names for a sentence: ``one, another and a third``."""
    *most, last = [each.name for each in facts]
    return f"{', '.join(most)} and {last}" if most else last


@cache
def engine_named(name: str) -> "Engine":
    """Return the engine of this name, imported when it is asked for the first time; raises `EngineUnknown`."""
    from undersong.shared.secagg.engine import Engine

    facts = engine_facts(name)
    engine = _loaded(facts.code)
    if not isinstance(engine, Engine):
        raise TypeError(f"{facts.code} is not an engine")
    return engine


@cache
def engine_audit(name: str) -> "EngineAudit":
    """Return the checks over records of the engine of this name, imported at the first call; raises `EngineUnknown`."""
    audit: EngineAudit = _loaded(engine_facts(name).audit)
    return audit


def preload() -> None:
    """Import every engine with its kernels, so that no round waits for that; blocks for a second or two."""
    for name, facts in ENGINES.items():
        engine_named(name)
        for kernels in facts.kernels:
            import_module(kernels)


def _loaded(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)

"""What the owner of a site's data demands of a round, whatever its manifest says."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from undersong.shared.wire.manifest import RoundManifest


@dataclass(frozen=True, slots=True)
class Floors:
    """What is looked at when the participants are known.

    min_threshold: fewer sites than this must not be able to open anything. quorum_up_to: in rounds of up to so many
    sites the survivors sign their set themselves.
    """

    min_threshold: int = 0
    quorum_up_to: int = 0


NO_FLOORS: Final = Floors()


@dataclass(frozen=True, slots=True)
class Objection:
    """One reason why the owner's policy refuses a round: a code for the platform, a sentence for the site."""

    code: str
    detail: str


class OwnerSection(BaseModel, ABC):
    """An engine's section of a site's policy file; its name there is the engine's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def objections(self, manifest: RoundManifest) -> Sequence[Objection]:
        """Return what speaks against the plan of a round of this engine."""

    @abstractmethod
    def floors(self) -> Floors:
        """Return what the engine's client demands once the participants are known."""

    @abstractmethod
    def leniency(self) -> Mapping[str, float]:
        """Return for each field a number that is larger where the field's value allows more."""

    @abstractmethod
    def text(self) -> str:
        """Return the section as a first policy file has it, with the choices that the owner has."""

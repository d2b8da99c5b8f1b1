"""The engines by name. What they are is known here at once; how they work is imported when a round needs it.

The coordinator and the dashboard only name engines, and must not pay for their kernels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Final, Literal

from shared.names import hint
from shared.secagg.engine import UPLOAD, Engine, EngineUnknown


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What a person, and a plan, should know of an engine. `smallest`: fewer sites than this it does not serve.

    `helped`: a second server takes part; training updates carry a proof of their norm, and weigh the same.
    """

    name: str
    strength: Literal["weak", "strong"]
    description: str
    steps: tuple[str, ...]
    smallest: int
    witnessed: bool
    module: str
    attribute: str
    helped: bool = False

    @property
    def stepped(self) -> bool:
        """Whether another party or the sites themselves have a word in it before a sum is opened."""
        return len(self.steps) > 1 or self.helped


_FACTS: Final = (
    EngineFacts(
        name="pairwise",
        strength="strong",
        description="No service sees an update: masks cancel in the sum over the survivors, and only that sum is "
        "opened.",
        steps=("advertise", "share", "check", UPLOAD, "commit", "unmask"),
        smallest=3,
        witnessed=True,
        module="shared.secagg.pairwise.engine",
        attribute="PAIRWISE",
    ),
    EngineFacts(
        name="sealed",
        strength="weak",
        description="Nobody on the way, in storage or at the coordinator sees an update; the aggregator sees each one.",
        steps=(UPLOAD,),
        smallest=1,
        witnessed=False,
        module="shared.secagg.sealed",
        attribute="SEALED",
    ),
    EngineFacts(
        name="twoserver",
        strength="strong",
        description="Two servers each hold half of every update, check a proof of its norm, and open only the sum.",
        steps=(UPLOAD,),
        smallest=2,
        witnessed=False,
        module="shared.secagg.twoserver.engine",
        attribute="TWOSERVER",
        helped=True,
    ),
)
ENGINES: Final[Mapping[str, EngineFacts]] = MappingProxyType({facts.name: facts for facts in _FACTS})
DEFAULT_ENGINE: Final = "pairwise"
PUBLIC_ENGINE: Final = "sealed"
"""For what is no secret anyway: the first model of a job, which depends on no data."""


def engine_facts(name: str) -> EngineFacts:
    """What is known of the engine of this name; raises `EngineUnknown`."""
    try:
        return ENGINES[name]
    except KeyError:
        raise EngineUnknown(f"engine {name!r} is unknown{hint(name, ENGINES)}") from None


@cache
def engine_named(name: str) -> Engine:
    """The engine of this name, imported when it is asked for the first time; raises `EngineUnknown`."""
    facts = engine_facts(name)
    engine = getattr(import_module(facts.module), facts.attribute)
    if not isinstance(engine, Engine):
        raise TypeError(f"{facts.module}.{facts.attribute} is not an engine")
    return engine


def preload() -> None:
    """Import every engine with its kernels, so that no round waits for that; blocks for a second or two."""
    for name in ENGINES:
        engine_named(name)

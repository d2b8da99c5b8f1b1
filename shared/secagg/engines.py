"""The engines by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from shared.secagg.engine import Engine, EngineUnknown
from shared.secagg.sealed import SEALED

ENGINES: Final[Mapping[str, Engine]] = MappingProxyType({SEALED.name: SEALED})


def engine_named(name: str) -> Engine:
    """The engine of this name; raises `EngineUnknown`."""
    try:
        return ENGINES[name]
    except KeyError:
        raise EngineUnknown(f"engine {name!r} is unknown; there are: {', '.join(sorted(ENGINES))}") from None

"""What an idle agent need not hold: libraries that others load for it, and memory that is free but kept."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from types import ModuleType
from typing import Final

UNUSED: Final = ("httpx._main", "rich", "greenlet")
"""What httpx and structlog load where it is installed, for a command line and a console that no agent has: 7 MB."""


def leave_out() -> None:
    """Keep these libraries from being loaded in this process; both callers do without what is missing.

    Python takes a None in the place of a module for one that is not installed.
    """
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    sys.modules.setdefault("doctest", ModuleType("doctest"))  # rbcl's, with unittest and pdb: for its own tests


def give_back() -> None:
    """Return what is free to the system, where the C library can: glibc keeps what threads freed for later."""
    import ctypes  # with numpy, after a first round

    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

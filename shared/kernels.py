"""Compiles every numba kernel of the library and leaves it in numba's cache: `python -m undersong.shared.kernels`.

Run once where the code is installed (`make venv`, the images), because compiling takes ten seconds and a service that
starts should not. Kernels that cannot be imported here are left alone: a service without them never needs them.
"""

import importlib
import importlib.util
from typing import Final

from undersong.shared.secagg.engines import ENGINES

MODULES: Final = tuple(
    dict.fromkeys(
        (
            "undersong.shared.fields.field64",
            "undersong.shared.lattice.kernels",
            "undersong.shared.secagg.rounding_kernel",
            *(name for facts in ENGINES.values() for name in facts.kernels),
        )
    )
)
"""The field, the ring, the quantiser's rounding, and what engines have compiled."""


def compile_all() -> None:
    """Import every module that compiles at import, where numba is installed."""
    if importlib.util.find_spec("numba") is None:
        return
    for module in MODULES:
        importlib.import_module(module)


if __name__ == "__main__":
    compile_all()

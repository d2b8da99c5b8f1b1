"""Every module with compiled kernels is compiled where the code is installed."""

from pathlib import Path

from undersong.shared.kernels import MODULES

ROOT = Path(__file__).parents[2]


def test_every_module_that_compiles_is_named() -> None:
    compiled = {
        ".".join(("undersong", *path.relative_to(ROOT).with_suffix("").parts))
        for path in (ROOT / "shared").rglob("*.py")
        if "\n@njit(" in path.read_text()
    }
    assert compiled == set(MODULES)

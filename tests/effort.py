"""How much is tried: `make test` takes a part of the examples, `make test-all` every one (UNDERSONG_TEST_ALL=1)."""

import os
from typing import Any, Final

import pytest

ALL: Final = os.environ.get("UNDERSONG_TEST_ALL", "0") not in ("", "0")
_SHARE: Final = 5
_FEWEST: Final = 8


def examples(number: int) -> int:
    """Return how many of a property's full `number` of examples this run draws."""
    return number if ALL else min(number, max(_FEWEST, number // _SHARE))


def also(*cases: Any) -> list[Any]:
    """Return the further cases of a table that only `make test-all` runs; others of the same kind stay beside them."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.exhaustive) for case in cases
    ]

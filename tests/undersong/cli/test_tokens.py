"""`undersong token create`: lives and scopes, as they are written."""

import pytest

from undersong.cli.tokens import _known, _life
from undersong.errors import UndersongError


@pytest.mark.parametrize(
    ("expires", "days", "seconds"),
    [(None, None, 90 * 86_400), ("30d", None, 30 * 86_400), ("12h", None, 43_200), ("5m", None, 300),
     ("never", None, None), (None, 7, 7 * 86_400)],
)  # fmt: skip
def test_a_tokens_life(expires: str | None, days: int | None, seconds: int | None) -> None:
    assert _life(expires, days) == seconds


@pytest.mark.parametrize("expires", ["", "30", "0d", "-1d", "30 d", "1w", "30D", "999999d", "٣d"])
def test_a_life_that_is_none_is_refused(expires: str) -> None:
    with pytest.raises(UndersongError, match="--expires"):
        _life(expires, None)


def test_two_lives_are_refused() -> None:
    with pytest.raises(UndersongError, match="mean the same"):
        _life("30d", 30)


def test_scopes_by_their_names() -> None:
    assert _known(["models:read", "jobs:write", "models:read"]) == ["jobs:write", "models:read"]
    with pytest.raises(UndersongError, match="no scope is called jobs:all"):
        _known(["jobs:all"])

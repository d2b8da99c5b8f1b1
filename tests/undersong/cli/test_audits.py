"""`undersong audit`: what it is asked is checked before the platform is."""

import sys
from pathlib import Path

import pytest

from undersong import cli


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "one-run"), "no audit is called 'one-run'"),
        (("--claim", "4"), "--claim 4: epsilon above 0 and delta between 0 and 1"),
        (("--claim", "0,1e-6"), "--claim 0,1e-6"),
        (("--claim", "1,1"), "--claim 1,1"),
        (("--claim", "nan,1e-6"), "--claim nan,1e-6"),
        (("--claim", "a,b"), "--claim a,b"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNDERSONG_HOME", str(tmp_path))
    data = tmp_path / "datasets.yaml"
    data.write_text("datasets: []\n")
    monkeypatch.setattr(sys, "argv", ["undersong", "audit", "heart", "--data", str(data), *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (1, "")
    assert said in printed.err
    assert "try:" in printed.err

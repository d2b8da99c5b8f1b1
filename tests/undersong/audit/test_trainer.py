"""The entry of a ``datasets.yaml`` that a command on one's own rows reads."""

from pathlib import Path

import pytest

from undersong.audit.trainer import declared
from undersong.errors import UndersongError

ENTRY = "- {name: %s, kind: csv, path: a.csv, label: y, columns: [{name: y, type: number}]%s}\n"
WARD, CLINIC, FAULTY = ENTRY % ("ward", ""), ENTRY % ("clinic", ""), ENTRY % ("ward", ", dates: {vist: '%Y'}")


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        (f"datasets:\n{FAULTY}", "data set ward: .*no column is called vist", "correct"),
        (f"datasets:\n{WARD}{CLINIC}", "2 data sets: ward, clinic", "--dataset"),
        ("datasets: []\n", "no data set", "data init"),
        ("datasets: [\n", "not YAML", "data init"),
    ],
)
def test_what_keeps_an_unnamed_entry_from_being_used_is_said(tmp_path: Path, text: str, said: str, remedy: str) -> None:
    (tmp_path / "datasets.yaml").write_text(text)
    with pytest.raises(UndersongError, match=said) as refused:
        declared(tmp_path / "datasets.yaml", None)
    assert remedy in (refused.value.remedy or "")


def test_the_only_usable_entry_needs_no_name(tmp_path: Path) -> None:
    (tmp_path / "datasets.yaml").write_text(f"datasets:\n{CLINIC}{FAULTY}")
    assert declared(tmp_path / "datasets.yaml", None).name == "clinic"

"""What `undersong quickstart` sets up follows from the files; what does not fit is refused before anything starts."""

from pathlib import Path

import pytest

from undersong.errors import UndersongError
from undersong.quickstart import name_sites, plan

HEAD = "age,ward,sick"
NORTH = [HEAD, "61,A,1", "40,B,0", "55,A,1"]
SOUTH = [HEAD, "33,B,0", "70,C,1", "48,C,0"]
EAST = [HEAD, "29,A,0", "66,B,1", "51,B,1"]


def files(folder: Path, *tables: list[str]) -> list[Path]:
    paths = [folder / f"{name}.csv" for name in ("north", "south", "east")]
    for path, lines in zip(paths, tables, strict=True):
        path.write_text("\n".join(lines) + "\n")
    return paths


def test_the_class_that_is_predicted_is_told(tmp_path: Path) -> None:
    said = [
        plan(files(tmp_path, *(with_label(lines, *values) for lines in (NORTH, SOUTH, EAST))), "y").predicted
        for values in (
            ("ja", "nein", "ja"),
            ("A", "B", "A"),
            ("0", "1", "0"),
            ("low", "mid", "high"),
            ("1.5", "2", "9"),
        )
    ]
    assert said == [
        "y has two classes: the model gives the probability of ja, and not of nein",
        "y has two classes: the model gives the probability of B, and not of A",
        "y has two classes: the model gives the probability of 1, and not of 0",
        "y has 3 classes: high, low, mid",
        "y is a number to predict",
    ]
    tables = [with_label(lines, "ja", "nein", "ja") for lines in (NORTH, SOUTH, EAST)]
    assert plan(files(tmp_path, *tables), "y").job["data"]["categories"]["y"] == ["nein", "ja"]


def with_label(lines: list[str], *values: str) -> list[str]:
    return [f"{line},{value}" for line, value in zip(lines, ("y", *values), strict=True)]


def test_categories_of_all_files_together_are_the_jobs(tmp_path: Path) -> None:
    made = plan(files(tmp_path, NORTH, SOUTH, EAST), "sick")
    assert list(made.drafts) == ["north", "south", "east"]
    assert made.job["data"] == {"dataset": "quickstart", "label": "sick", "categories": {"ward": ["A", "B", "C"]}}
    assert made.job["recipe"]["params"]["task"] == "binary"
    assert not made.unused


def test_columns_that_differ_are_left_out_and_told(tmp_path: Path) -> None:
    south = ["age,ward,sick,note", *(f"{line},x" for line in SOUTH[1:])]
    east = [line.replace(",A,", ",1,").replace(",B,", ",2,") for line in EAST]
    made = plan(files(tmp_path, NORTH, south, east), "sick")
    assert made.job["data"]["exclude"] == ["ward"]
    assert "number in" in made.unused["ward"]
    assert made.unused["note"].startswith("not in")


@pytest.mark.parametrize(
    ("values", "params"),
    [
        (("0", "1", "0"), {"task": "binary"}),
        (("1.5", "2", "7"), {"task": "regression"}),
        (("yes", "no", "yes"), {"task": "binary"}),
        (("low", "mid", "high"), {"task": "multiclass", "classes": 3}),
    ],
)
def test_the_task_follows_from_the_labels_values(tmp_path: Path, values: tuple[str, ...], params: object) -> None:
    tables = [with_label(lines, *values) for lines in (NORTH, SOUTH, EAST)]
    chosen = plan(files(tmp_path, *tables), "y").job["recipe"]["params"]
    assert {name: chosen[name] for name in ("task", "classes") if name in chosen} == params


@pytest.mark.parametrize(
    ("values", "task", "said"),
    [
        (("1", "2", "3"), "binary", "other than 0 and 1"),
        (("1", "2", "3"), "multiclass", "how many classes"),
        (("low", "mid", "high"), "binary", "--task multiclass"),
        (("low", "mid", "high"), "regression", "texts"),
        (("low", "low", "low"), None, "in every row"),
    ],
)
def test_a_task_that_the_label_does_not_fit_is_refused(
    tmp_path: Path, values: tuple[str, ...], task: str | None, said: str
) -> None:
    tables = [with_label(lines, *values) for lines in (NORTH, SOUTH, EAST)]
    with pytest.raises(UndersongError, match=said):
        plan(files(tmp_path, *tables), "y", task=task)


def test_a_label_that_is_misspelt_or_differs_is_refused(tmp_path: Path) -> None:
    given = files(tmp_path, NORTH, SOUTH, EAST)
    with pytest.raises(UndersongError, match=r"north\.csv.*did you mean 'sick'"):
        plan(given, "sik")
    given[2].write_text("\n".join(line.replace(",1", ",yes").replace(",0", ",no") for line in EAST) + "\n")
    with pytest.raises(UndersongError, match=r"the label sick: .*category in .*east\.csv"):
        plan(given, "sick")


def test_sites_are_named_after_files_or_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "rows.csv" for folder in ("north", "south", "east wing")]
    assert list(name_sites(paths)) == ["north-rows", "south-rows", "east-wing-rows"]
    with pytest.raises(UndersongError, match="is given twice"):
        name_sites([paths[0], paths[1], paths[0]])
    with pytest.raises(UndersongError, match="2 files make 2 sites"):
        name_sites(paths[:2])

"""A run's files, read again and compared: tables and plots of several runs, and sentences where there is nothing."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.undersong.simulate.slopes import job, run, write
from undersong import cli
from undersong.errors import UndersongError
from undersong.simulate import Run, compare_runs, plot_runs
from undersong.simulate.plots import HEIGHT, SCALE, WIDTH, Plot, png, svg


def test_a_folder_is_opened_and_runs_are_compared(tmp_path: Path) -> None:
    few, many = (run(job(rounds=2), tmp_path, str(count), clients=count, slow="lognormal:1") for count in (6, 12))
    again = Run.open(few.folder)
    assert again.frame() == few.frame()
    assert again.simulated["clients"] == 6
    runs = {"six": again, "twelve": many}
    table = compare_runs(runs)
    assert [(row["run"], row["round"]) for row in table] == [("six", 1), ("six", 2), ("twelve", 1), ("twelve", 2)]
    for over in ("round", "simulated_s"):
        drawn = plot_runs(runs, "auc", tmp_path / f"{over}.svg", over=over).read_text()
        assert drawn.count("#c0504d") == 2, "a curve and its name"
        assert "twelve" in drawn
    with Image.open(plot_runs(runs, "auc", tmp_path / "auc.png")) as image:
        assert image.size == (WIDTH * SCALE, HEIGHT * SCALE)
        assert len(image.getcolors(2**20) or ()) > 10
    rows = list(csv.DictReader(io.StringIO((few.folder / "metrics.csv").read_text())))
    assert [float(row["auc"]) for row in rows] == [row["auc"] for row in few.frame()]
    with pytest.raises(UndersongError, match="no run has aucc over round; did you mean 'auc'"):
        plot_runs(runs, "aucc", tmp_path / "x.svg")
    with pytest.raises(UndersongError, match="which form"):
        plot_runs(runs, "auc", tmp_path / "x.jpeg")


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"rounds": 3, "job": {}, "simulated": {}}', "\ud800"])
def test_a_folder_without_a_run_is_told(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text, errors="surrogatepass")
    with pytest.raises(UndersongError, match=r"run\.json (cannot be read|is not the record)"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    "points", [[], [(1.0, float("nan")), (2.0, float("inf"))], [(1.0, 0.5)], [(1.0, 0.5), (2.0, 0.5)]]
)
def test_few_points_are_drawn(points: list[tuple[float, float]]) -> None:
    plot = Plot({"": points}, "a <title>", "round", "auc")
    drawn = svg(plot).decode()
    assert "a &lt;title&gt;" in drawn
    assert ("nothing was evaluated" in drawn) == (not points or points[0][1] != 0.5)
    assert ("<circle" in drawn) == (len(points) == 1)
    assert (png(plot) or b"").startswith(b"\x89PNG")


def test_the_command_says_that_it_goes_on(tmp_path: Path) -> None:
    words = [*write(tmp_path, job(rounds=2)), "--clients", "6", "--workers", "0", "--out", str(tmp_path / "run")]
    first = CliRunner().invoke(cli.app, [*words, "--slow", "0.2:5"])
    assert "simulated seconds" in first.stdout
    assert "goes on" not in first.stderr
    again = CliRunner().invoke(cli.app, [*words, "--slow", "0.2:5"])
    assert "had ended: this is its result" in again.stderr
    state = tmp_path / "run" / "state.json"
    document = json.loads(state.read_text()) | {"finished_at": None, "state": "running"}
    state.write_text(json.dumps(document))
    resumed = CliRunner().invoke(cli.app, [*words, "--slow", "0.2:5"])
    assert "after 2 rounds of training" in resumed.stderr
    assert resumed.exit_code == 0

"""`undersong quickstart` on real processes: it trains, and the commands that it prints do the same by hand."""

import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Commands

SITES = ("north", "south", "east")


def write(folder: Path) -> list[str]:
    """Three files of real form: categories that not all have, a column that one lacks."""
    drawn, words = random.Random(7), []
    for site, wards in zip(SITES, ("AB", "BC", "AB"), strict=True):
        lines = ["age,ward,sick" + ",note" * (site == "south")]
        for _ in range(80):
            age, ward = drawn.randint(20, 90), drawn.choice(wards)
            sick = "yes" if age + 20 * (ward == "B") + drawn.gauss(0, 10) > 65 else "no"
            lines.append(f"{age},{ward},{sick}" + ",x" * (site == "south"))
        (folder / f"{site}.csv").write_text("\n".join(lines) + "\n")
        words += ["--data", f"{site}.csv"]
    return words


@pytest.mark.process
@pytest.mark.timeout(300)
def test_own_files_become_a_model_with_evidence(commands: Commands, tmp_path: Path) -> None:
    env = {**os.environ, "UNDERSONG_HOME": str(tmp_path / "config")}
    words = ["quickstart", *write(tmp_path), "--label", "sick", "--rounds", "1", "--home", "home"]
    undersong = str(Path(sys.executable).with_name("undersong"))
    done = subprocess.run([undersong, *words], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "column note is not used: not in north.csv, east.csv" in done.stdout
    assert "verified: all" in done.stdout
    assert (tmp_path / "home" / "model.safetensors").stat().st_size > 0
    shown = [shlex.split(line[2:]) for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert [line[1] for line in shown] == ["up", *["site", "data", "agent"] * 3, "job", "model", "verify"]
    for line in shown:
        names = [word for word in line[1:3] if not word.startswith("-")]
        answer = commands.run(*names, "--help", cwd=tmp_path, env=env)
        assert all(word in answer.stdout for word in line if word.startswith("--")), line
    drafted = next(line for line in shown if line[1] == "data")[1:]
    again = commands.run(*drafted[:-2], cwd=tmp_path, env=env)
    assert again.stdout == (tmp_path / "home" / "sites" / "north" / "datasets.yaml").read_text()
    second = commands.run(*words, cwd=tmp_path, env=env)
    assert second.returncode == 1
    assert "home is not a new folder" in second.stderr
    assert "undersong up --home home" in second.stderr

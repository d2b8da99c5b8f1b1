"""What simulated clients keep between rounds: read as of the round before, durable, and never half of it."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.pace import Deadline
from tests.undersong.simulate.slopes import SLOPE, job, run, table, write
from undersong import cli
from undersong.client.types import Round
from undersong.errors import UndersongError
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.protocol import Dataset
from undersong.shared.learning.metrics import metrics_of
from undersong.shared.learning.tensors import load
from undersong.simulate import ConditionsInvalid, Run, simulate
from undersong.simulate.conditions import conditions_of
from undersong.simulate.kept import KEPT, KeptDamaged, KeptTensors
from undersong.simulate.loading import load_rows


def keeping(**changes: Any) -> dict[str, Any]:
    return job(recipe={"name": "slope", "params": {"keeps": True}}, **changes)


def tensors(value: float) -> dict[str, np.ndarray]:
    return {"own": np.full(3, value)}


def test_a_round_reads_what_the_newest_before_it_left(tmp_path: Path) -> None:
    kept = KeptTensors(tmp_path / KEPT)
    assert kept.before(0, 5) == {}
    assert kept.clients(5) == []
    assert kept.settle(5) is None
    assert list(tmp_path.iterdir()) == []
    for number in (2, 3, 5, 5):
        kept.keep(7, number, tensors(number))
    kept.keep(1, 4, tensors(4))
    other = KeptTensors(tmp_path / KEPT)
    assert [float(other.before(7, number)["own"][0]) for number in (4, 5, 6, 9)] == [3, 3, 5, 5]
    assert other.before(7, 2) == {}, "older ones are deleted"
    assert (other.clients(4), other.clients(6)) == ([7], [1, 7])
    assert other.settle(5) == 5
    kept.check(5)
    with pytest.raises(KeptDamaged):
        kept.check(6)
    other.forget()
    kept.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_ends_the_simulation_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    asked = keeping(rounds=2)
    run(asked, tmp_path, clients=12)
    with sqlite3.connect(tmp_path / "run" / KEPT) as database:
        database.execute("DROP TABLE kept")
    kept = KeptTensors(tmp_path / "run" / KEPT)
    for attempt in (lambda: kept.keep(1, 9, tensors(1)), lambda: kept.before(1, 9), lambda: kept.clients(9)):
        with pytest.raises(UndersongError, match=r"cannot be stored in .*clients\.sqlite: no such table"):
            attempt()


def sites(rounds_: tuple[Round, ...]) -> dict[str, int]:
    """How many rounds each client took part in."""
    counts: dict[str, int] = {}
    for round_ in rounds_:
        for name in round_.cohort if round_.kind == "train" else ():
            counts[name] = counts.get(name, 0) + 1
    return counts


def held(made: Run) -> dict[int, dict[str, np.ndarray]]:
    kept = KeptTensors(made.folder / KEPT)
    found = {client: kept.before(client, 10**6) for client in kept.clients(10**6)}
    kept.close()
    return found


def test_clients_keep_what_they_left_in_their_own_last_round(tmp_path: Path) -> None:
    """Whatever the workers: the same model, and each client's own tensors and test rows in the evaluation."""
    conditions: dict[str, Any] = {"clients": 12, "sample": 0.5, "partition": "dirichlet:0.5"}
    made = run(keeping(), tmp_path, **conditions)
    found = held(made)
    assert {f"client-{client:02d}": int(each["rounds"][0]) for client, each in found.items()} == sites(made.rounds)
    assert len({len(each) for each in found.values()}) == 1
    other = run(keeping(), tmp_path, "two", workers=2, **conditions)
    assert made.model.read_bytes() == other.model.read_bytes()
    assert made.frame() == other.frame()
    assert not list(other.folder.glob("*-wal"))
    assert made.metrics["examples"] == 60
    assert made.model.read_bytes() != run(job(), tmp_path, "none", **conditions).model.read_bytes()
    check_evaluation(made, found, conditions)


def check_evaluation(made: Run, found: dict[int, dict[str, np.ndarray]], conditions: dict[str, Any]) -> None:
    """The last evaluation is the sum over clients, each with what it kept and its own test rows."""
    recipe, model = load_recipe("slope", [SLOPE]), load(made.model.read_bytes()).tensors
    document = {**keeping(), "federation_id": "fed_simulated"}
    dealt = load_rows(table(), document, [recipe.spec], conditions_of(**conditions), 0).rows
    owners, total = dealt.owners(0), np.zeros(0)
    for client in {*owners.tolist()}:
        places = np.flatnonzero(owners == client).tolist()
        data: Dataset = dealt.tests(places)
        if client in found:
            data = Dataset(**{**{f: getattr(data, f) for f in data.__slots__}, "local": found[client]})
        sums = recipe.evaluate(model, data, {}, {})
        total = total + sums if total.size else sums
    assert metrics_of("binary", total) == pytest.approx(made.metrics)


@pytest.mark.process
@pytest.mark.exhaustive
def test_a_killed_simulation_goes_on_with_what_clients_kept(tmp_path: Path) -> None:
    """Killed within rounds, again and again: the model and what clients keep are as if nothing had been."""
    words = [*write(tmp_path, keeping(rounds=40)), "--clients", "12", "--sample", "0.5", "--drop", "0.1"]
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-c",
        "from undersong.cli import main; main()",
        *words,
        "--workers",
        "2",
        "--out",
        str(out),
    ]
    for lines in (12, 40):
        process, deadline = subprocess.Popen(command), Deadline(90)
        while not (out / "rounds.jsonl").exists() or (out / "rounds.jsonl").read_bytes().count(b"\n") < lines:
            assert process.poll() is None
            assert not deadline.over()
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (out / KEPT).exists()
    ended = CliRunner().invoke(cli.app, [*words, "--workers", "0", "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    whole = simulate(
        keeping(rounds=40),
        tmp_path / "datasets.yaml",
        clients=12,
        sample=0.5,
        drop=0.1,
        workers=0,
        recipes=[SLOPE],
        out=tmp_path / "whole",
    )
    assert (out / "model.safetensors").read_bytes() == whole.model.read_bytes()
    again = Run(out, whole.job, whole.rounds, {})
    mine, theirs = held(again), held(whole)
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[client][name], theirs[client][name]) for client in mine for name in mine[client])


@pytest.mark.parametrize("harm", ["gone", "old", "garbage"])
def test_a_damaged_file_is_told(tmp_path: Path, harm: str) -> None:
    made = run(keeping(rounds=2), tmp_path, clients=6)
    file = made.folder / KEPT
    if harm == "gone":
        file.unlink()
    elif harm == "garbage":
        file.write_bytes(b"not a database" * 400)
    else:
        with sqlite3.connect(file) as database:
            database.execute("UPDATE stored SET number = 1")
    with pytest.raises(ConditionsInvalid, match="is damaged"):
        run(keeping(rounds=2), tmp_path, clients=6)


def test_a_damaged_entry_and_what_cannot_be_deleted_are_named(tmp_path: Path) -> None:
    kept = KeptTensors(tmp_path / KEPT)
    kept.keep(1, 0, {"a": np.ones(3, np.float32)})
    kept.close()
    with sqlite3.connect(tmp_path / KEPT) as database:
        database.execute("UPDATE kept SET tensors = ?", (b"cut off",))
    with pytest.raises(UndersongError, match=r"what client 1 kept .* is damaged"):
        kept.before(1, 1)
    kept.forget()
    (tmp_path / KEPT).mkdir()
    with pytest.raises(UndersongError, match="cannot be deleted"):
        kept.forget()

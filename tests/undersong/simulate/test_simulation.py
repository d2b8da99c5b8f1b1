"""Whole simulations: what stays the same whatever the workers, after a kill and with noise, and what is refused."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.pace import Deadline
from tests.undersong.simulate.slopes import NULL, ROWS, SLOPE, job, rows, run, table, untimed, write
from undersong import cli
from undersong.client.types import Round
from undersong.errors import UndersongError
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.protocol import Column, Dataset, RecipeError
from undersong.recipes.reference import train_in_one_place
from undersong.services.coordinator.views.jobs import JobView
from undersong.shared.ids import digest_of
from undersong.shared.learning.metrics import metrics_of
from undersong.shared.learning.tensors import load
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.statistics.growth import Growth, site_sums
from undersong.shared.statistics.measures import SALT
from undersong.shared.statistics.tree_options import TreeOptions
from undersong.shared.statistics.trees import Trees
from undersong.shared.wire.privacy import PoissonGaussianEvent
from undersong.simulate import ConditionsInvalid, Run, simulate
from undersong.simulate.checkpoints import Folder
from undersong.simulate.partitions import Split
from undersong.simulate.rows import ClientRows


def test_a_run_is_a_jobs_record_with_a_model_and_a_plot(tmp_path: Path) -> None:
    made = run(job(), tmp_path, clients=12, partition="dirichlet:0.5", sample=0.5)
    assert made.metrics["auc"] > 0.8
    assert [(r.kind, r.number) for r in made.rounds][:4] == [
        ("statistics", 0),
        ("initialise", 0),
        ("train", 1),
        ("evaluate", 1),
    ]
    assert all(r.phase == "published" for r in made.rounds)
    assert {r.got for r in made.rounds if r.kind == "train"} == {6}
    document = json.loads((made.folder / "run.json").read_text())
    assert document["simulated"]["clients"] == 12
    JobView.model_validate(document["job"])
    assert made.job.state == "succeeded"
    assert load(made.model.read_bytes()).tensors["weights"].shape == (3,)
    assert "polyline" in made.plot.read_text()
    assert made.reached("auc", 0.6) is not None
    assert made.reached("auc", 2.0) is None
    assert sorted(path.name for path in made.folder.glob("*")) == sorted(
        [
            "lock",
            "run.json",
            "model.safetensors",
            "metrics.svg",
            "metrics.png",
            "metrics.csv",
            "simulation.json",
            "state.json",
            "rounds.jsonl",
            *kept(made),
        ]
    )


CHECKPOINT = ("simulation.json", "state.json", "rounds.jsonl")


def kept(made: Run) -> list[str]:
    return [path.name for path in made.folder.glob("*.part-of-state")]


def test_integers_and_floats_differ_by_rounding_alone(tmp_path: Path) -> None:
    exact, floats = (run(job(), tmp_path, name, clients=12, engine=name) for name in ("quantised", "plain"))
    one, other = (load(made.model.read_bytes()).tensors["weights"] for made in (exact, floats))
    assert np.abs(one - other).max() < 1e-4
    assert not np.array_equal(one, other)
    assert [r.result["weight"] for r in exact.rounds if r.kind == "train"] == [
        r.result["weight"] for r in floats.rounds if r.kind == "train"
    ]


def test_compressed_updates_are_those_of_floats_to_a_rounding(tmp_path: Path) -> None:
    compressed = {"clip_norm": 5.0, "keep": 0.5, "rotation": True, "error_feedback": True}
    exact, floats = (
        run(job(update=compressed), tmp_path, name, clients=12, engine=name) for name in ("quantised", "plain")
    )
    one, other = (load(made.model.read_bytes()).tensors["weights"] for made in (exact, floats))
    assert 0 < np.abs(one - other).max() < 1e-4
    whole = load(run(job(), tmp_path, "whole", clients=12).model.read_bytes()).tensors["weights"]
    assert np.abs(one - whole).max() > 1e-3


def test_a_client_without_rows_is_not_among_those_that_are_enough(tmp_path: Path) -> None:
    """It answers at once, but nothing that a round could count."""
    sites, (x, y) = {}, rows()
    for name, trains in (("east", 30), ("north", 40), ("south", 50), ("west", 0)):
        sites[name] = Dataset("made", table().columns, x[:60], y[:60], np.arange(trains), np.arange(55, 60), "ill")
    for enough, seconds in ((2, 80), (None, 100)):
        asked = job(rounds=1, cohort={"min": 2, "allow_small": True, "enough": enough}, engine="sealed")
        out = tmp_path / f"of-{enough}"
        made = simulate(asked, sites, out=out, recipes=[SLOPE], workers=0, slow="lognormal:0", round_s=60)
        (trained,) = [r for r in made.rounds if r.kind == "train"]
        assert trained.got == (enough or 3)
        told = trained.model_dump()["simulated"]
        assert (told["took_s"], told["late"]) == (pytest.approx(seconds), 1 if enough else 0)


def test_a_client_that_fails_leaves_the_others(tmp_path: Path) -> None:
    sites = {}
    for name, count in (("east", 30), ("north", 40), ("south", 90), ("west", 20)):
        x, y = rows(count)
        sites[name] = Dataset("made", table().columns, x[:count], y[:count], np.arange(5, count), np.arange(5), "ill")
    document = job(recipe={"name": "slope", "params": {"break_above": 60}})
    made = simulate(document, sites, out=tmp_path / "some", recipes=[SLOPE], workers=0)
    trained = [r for r in made.rounds if r.kind == "train"]
    assert {r.got for r in trained} == {3}
    assert trained[0].model_dump()["faults"][0]["site_id"] == "south"
    with pytest.raises(UndersongError, match=r"all 4 clients failed.*more rows than the test allows"):
        simulate(
            job(recipe={"name": "slope", "params": {"break_above": 1}}),
            sites,
            out=tmp_path / "all",
            recipes=[SLOPE],
            workers=0,
        )


def test_dropouts_below_the_minimum_are_tried_again_and_then_stop(tmp_path: Path) -> None:
    made = run(job(cohort={"min": 8}), tmp_path, clients=12, drop=0.25)
    failed = [r for r in made.rounds if r.phase == "failed"]
    assert all(r.got < 8 and r.reason == "quorum" for r in failed)
    assert made.job.progress["trained"] == 5
    with pytest.raises(UndersongError, match="fewer than 12 clients gave"):
        run(job(cohort={"min": 12}), tmp_path, "strict", clients=12, drop=0.5)


def test_slow_clients_come_too_late_and_time_is_told(tmp_path: Path) -> None:
    """Two of twenty take fifty times as long: a round waits for them, until its deadline, or until enough are there."""
    few = {"clients": 20, "slow": "0.1:50", "round_s": 10.0}
    asked = {"rounds": 3, "evaluation": {"every": 1}}
    waits = run(job(**asked, deadlines={"round_s": 1000}), tmp_path, "waits", **few)
    late = run(job(**asked, deadlines={"round_s": 60}), tmp_path, "late", **few)
    enough = run(job(**asked, cohort={"enough": 15}), tmp_path, "enough", **few)
    told = {
        made.folder.name: [(r.got, *r.model_dump()["simulated"].values()) for r in made.rounds if r.kind == "train"]
        for made in (waits, late, enough)
    }
    assert told["waits"] == [(20, 500.0, 500.0 * (number + 1), 0) for number in (1, 2, 3)], "statistics came before"
    assert told["late"] == [(18, 60.0, 60.0 * (number + 1), 2) for number in (1, 2, 3)]
    assert told["enough"] == [(15, 10.0, 500.0 + 10.0 * number, 5) for number in (1, 2, 3)]
    assert [row["simulated_s"] for row in late.frame()] == [120.0, 180.0, 240.0]
    assert "simulated_s" not in late.metrics
    assert late.reached_s("auc", 0.5) == 120.0
    assert late.reached_s("auc", 2.0) is None
    assert (late.folder / "metrics-over-time.svg").exists()
    assert run(job(), tmp_path, "none", clients=6).reached_s("auc", 0.5) is None
    silent = run(job(**asked, cohort={"enough": 15}), tmp_path, "silent", **few, drop=0.3)
    assert {r.model_dump()["simulated"]["took_s"] for r in silent.rounds if r.got < 15 and r.kind == "train"} <= {600.0}


def test_tosses_earn_credit_and_the_noise_is_there(tmp_path: Path) -> None:
    """The null recipe changes nothing, so that its model is the noise."""
    private = {
        "recipe": NULL,
        "engine": "twoserver",
        "strategy": {"name": "fedavg", "weighting": "equal"},
        "update": {"clip_norm": 1.0},
        "privacy": {"model": "server", "epsilon": 4.0, "delta": 1e-4},
        "evaluation": {"every": 0},
        "rounds": 2,
    }
    found = {}
    for servers in (1, 2):
        made = run(job(**private), tmp_path, str(servers), clients=60, sample="poisson:0.2", noise_servers=servers)
        terms = made.job.privacy
        assert terms is not None
        event = PoissonGaussianEvent(noise_multiplier=terms.noise_multiplier, probability=0.2, count=2)
        assert terms.epsilon == pytest.approx(epsilon_of([event], 1e-4))
        assert 3.9 < terms.epsilon <= 4.0
        noise = load(made.model.read_bytes()).tensors["weights"]
        found[servers] = noise.std() / (terms.noise_multiplier * np.sqrt(2) / (60 * 0.2))  # two rounds
    assert found == pytest.approx({1: 1.0, 2: np.sqrt(2)}, rel=0.03)
    fixed = run(job(**private), tmp_path, "fixed", clients=60, sample=0.2)
    assert fixed.job.privacy is not None
    assert fixed.job.privacy.noise_multiplier > 1.5 * terms.noise_multiplier


@pytest.mark.parametrize("sample", ["0.5", "poisson:0.5"])
def test_a_clip_norm_moves_as_it_does_with_real_sites(tmp_path: Path, sample: str) -> None:
    """The null recipe's updates are all within it: it falls by e in each round, and with it the noise."""
    made = run(
        job(
            recipe=NULL,
            engine="twoserver",
            strategy={"name": "fedavg", "weighting": "equal"},
            update={"clip_norm": 1.0},
            privacy={
                "model": "server", "noise_multiplier": 0.5, "delta": 1e-4, "adaptive_clip": {"rate": 2.0},
            },
            evaluation={"every": 0},
            rounds=3,
        ),
        tmp_path,
        "moving",
        clients=60,
        sample=sample,
        noise_servers=1,
    )  # fmt: skip
    noise = load(made.model.read_bytes()).tensors["weights"].std() * 30
    left = 0.5 * 2 / np.sqrt(3)  # z_delta clip norms
    assert noise == pytest.approx(left * np.sqrt(1 + np.exp(-2) + np.exp(-4)), rel=0.15)


@pytest.mark.process
def test_a_killed_simulation_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """By command with two workers, killed in the middle and run again; in one process and in one go for comparison.

    Clients keep tensors and what their updates leave out, so that a round that is done again must begin with the same.
    """
    compressed = {"clip_norm": 5.0, "keep": 0.5, "rotation": True, "error_feedback": True}
    asked = job(rounds=60, recipe={"name": "slope", "params": {"keeps": True}}, update=compressed)
    words = [*write(tmp_path, asked), "--clients", "12", "--sample", "0.5", "--drop", "0.1", "--seed", "3"]
    words += ["--slow", "lognormal:1"]
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
    process, deadline = subprocess.Popen(command), Deadline(90)
    while not (out / "rounds.jsonl").exists() or (out / "rounds.jsonl").read_bytes().count(b"\n") < 20:
        assert process.poll() is None
        assert not deadline.over()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = (out / "rounds.jsonl").read_bytes().count(b"\n")
    assert lines < 100, "it was over before the kill"
    with (out / "rounds.jsonl").open("ab") as file:
        file.write(b'{"half a li')
    ended = CliRunner().invoke(cli.app, [*words, "--workers", "1", "--out", str(out), "--json"])
    assert ended.exit_code == 0, ended.output
    whole = simulate(
        asked,
        tmp_path / "datasets.yaml",
        clients=12,
        sample=0.5,
        drop=0.1,
        seed=3,
        slow="lognormal:1",
        workers=0,
        recipes=[SLOPE],
        out=tmp_path / "whole",
    )
    assert (out / "model.safetensors").read_bytes() == whole.model.read_bytes()
    document = json.loads((out / "run.json").read_text())
    assert [untimed(Round.model_validate(each)) for each in document["rounds"]] == [untimed(r) for r in whole.rounds]
    assert not (out / "work").exists()
    refused = CliRunner().invoke(cli.app, [*words, "--drop", "0.2", "--out", str(out)])
    assert "holds a simulation of another drop" in str(refused.exception)


def test_a_folder_has_one_simulation_at_a_time(tmp_path: Path) -> None:
    folder = Folder(tmp_path, {"job": 1})
    with pytest.raises(ConditionsInvalid, match="a simulation runs in"):
        Folder(tmp_path, {"job": 1})
    folder.close()
    with pytest.raises(ConditionsInvalid, match="another job"):
        Folder(tmp_path, {"job": 2})
    Folder(tmp_path, {"job": 1}).close()


@pytest.mark.parametrize("harm", ["state", "part", "rounds", "none"])
def test_a_folder_that_is_damaged_says_so(tmp_path: Path, harm: str) -> None:
    made = run(job(recipe=NULL, rounds=1), tmp_path, clients=3).folder
    if harm == "state":
        (made / "state.json").write_text("{}")
    elif harm == "part":
        next(made.glob("*.part-of-state")).unlink()
    elif harm == "rounds":
        (made / "rounds.jsonl").write_text("")
    else:
        (made / "rounds.jsonl").unlink()
    with pytest.raises(ConditionsInvalid, match="is damaged"):
        run(job(recipe=NULL, rounds=1), tmp_path, clients=3)


def test_tosses_that_choose_nobody_for_the_statistics_are_tried_again(tmp_path: Path) -> None:
    with pytest.raises(UndersongError, match="clients gave to a round"):
        run(job(), tmp_path, clients=12, sample="poisson:1e-300")


def test_a_client_for_each_ward(tmp_path: Path) -> None:
    write(tmp_path, job())
    document = job(data={"dataset": "made", "features": ["a", "b", "c"]})
    made = simulate(
        document, tmp_path / "datasets.yaml", partition="by:ward", workers=0, recipes=[SLOPE], out=tmp_path / "r"
    )
    assert made.rounds[0].cohort == ["w0", "w1", "w2", "w3"]
    several = [tmp_path / name / "datasets.yaml" for name in ("east", "north", "south")]
    for file in several:
        file.parent.mkdir()
        write(file.parent, document)
    made = simulate(document, several, workers=0, recipes=[SLOPE], out=tmp_path / "s")
    assert made.rounds[0].cohort == ["east", "north", "south"]


def test_a_fold_is_left_out_of_training_and_evaluated(tmp_path: Path) -> None:
    write(tmp_path, job())
    counts = []
    for number in (1, 2, 3):
        data = {"dataset": "made", "features": ["a", "b", "c"], "fold": {"number": number, "of": 3}}
        made = simulate(
            job(data=data),
            tmp_path / "datasets.yaml",
            clients=6,
            workers=0,
            recipes=[SLOPE],
            out=tmp_path / str(number),
        )
        counts.append(made.metrics["examples"])
    whole = simulate(
        job(data={**data, "fold": None}),
        tmp_path / "datasets.yaml",
        clients=6,
        workers=0,
        recipes=[SLOPE],
        out=tmp_path / "w",
    )
    assert sum(counts) + whole.metrics["examples"] == ROWS


def test_texts_are_rows_like_others(tmp_path: Path) -> None:
    texts = np.array(["a", "longer text", "", "é"], object)
    none = np.zeros(0, np.int64)
    data = Dataset("texts", (Column(name="said", type="text"),), texts, np.arange(4.0), np.arange(4), none, "label")
    ClientRows(data, Split(np.arange(4), np.array([0, 1, 4]))).save(tmp_path)
    opened = ClientRows.open(tmp_path)
    assert opened.of(1).features.tolist() == ["longer text", "", "é"]
    assert opened.of(1).features.dtype == object


SERVER = {
    "engine": "twoserver",
    "strategy": {"weighting": "equal"},
    "update": {"clip_norm": 1.0},
    "privacy": {"model": "server", "epsilon": 4.0, "delta": 1e-4},
}
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {}, "how many clients"),
    ({}, {"clients": 1000}, "180 training rows for 1000 clients"),
    ({}, {"clients": 12, "partition": "by:wrd"}, "no column 'wrd'"),
    ({}, {"clients": 12, "partition": "by:a"}, "has 180 values, and 12 clients"),
    ({}, {"clients": 2}, "cohort.min: 2 active sites"),
    ({"recipe": {"name": "slop"}}, {"clients": 12}, "did you mean 'slope'"),
    ({"recipe": {"name": "slope", "params": {"learning_rat": 1}}}, {"clients": 12}, "did you mean 'learning_rate'"),
    ({"data": {"dataset": "mde"}}, {"clients": 12}, "did you mean 'made'"),
    ({"rouns": 3}, {"clients": 12}, "did you mean 'rounds'"),
    ({"kind": "statistics"}, {"clients": 12}, "only jobs that train"),
    ({"model": {"name": "m", "version_id": "ver_1"}}, {"clients": 12}, "starts from a fresh model"),
    (SERVER, {"clients": 12, "engine": "plain"}, "engine plain has none"),
    ({**SERVER, "privacy": {**SERVER["privacy"], "delta": 0.1}}, {"clients": 12}, "less than 1/12"),
    (
        {**SERVER, "privacy": {**SERVER["privacy"], "epsilon": -1.0}},
        {"clients": 12, "sample": "poisson:0.5"},
        "privacy.epsilon",
    ),
    (
        {**SERVER, "privacy": {"model": "server", "delta": 1e-4}},
        {"clients": 12, "sample": "poisson:0.5"},
        "epsilon or noise",
    ),
    (
        {
            "strategy": {"weighting": "equal"},
            "update": {"clip_norm": 1.0},
            "privacy": {"model": "distributed", "epsilon": 4.0},
        },
        {"clients": 12, "sample": "poisson:0.5"},
        "no minimum cohort",
    ),
]


@pytest.mark.parametrize(("changes", "conditions", "said"), WRONG)
def test_refused_in_a_sentence(tmp_path: Path, changes: dict[str, Any], conditions: dict[str, Any], said: str) -> None:
    with pytest.raises(UndersongError) as refused:
        run(job(**changes), tmp_path, **conditions)
    assert said in str(refused.value)
    assert "policies" not in str(refused.value), "clients have none"
    assert ("--recipe FILE" in (refused.value.remedy or "")) == (changes.get("recipe") == {"name": "slop"})
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_grows_ends_the_job_with_the_version_before(tmp_path: Path) -> None:
    x, _ = rows()
    columns = tuple(Column(name=name, type="number") for name in "abc")
    data = Dataset("made", columns, x, x @ [1.0, -2.0, 0.5], np.arange(180), np.arange(180, ROWS), "price")
    steep = {"task": "regression", "learning_rate": 0.9, "batch_size": 0, "epochs": 10}
    asked = job(recipe={"name": "tabular", "params": steep}, strategy={"name": "fedavg"}, update={"bound": 1e6})
    made = simulate(asked | {"data": {"dataset": "made"}}, data, out=tmp_path / "run", clients=4, workers=0)
    trained = [round_ for round_ in made.rounds if round_.kind == "train"]
    assert (made.job.state, made.job.reason) == ("failed", "diverged")
    assert len(trained) < 5
    assert made.job.version_id == (trained[-2].result or {})["version_id"]
    assert digest_of(made.model.read_bytes()) == (trained[-2].result or {})["digest"]
    assert "Lower the learning rate" in (made.job.explanation or "")


def test_a_diverging_model_and_a_dead_worker_end_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UndersongError, match="not a finite number"):
        run(job(recipe={"name": "slope", "params": {"learning_rate": 1e300}}), tmp_path, clients=12)
    monkeypatch.setattr("undersong.simulate.executors.sys.executable", "/bin/true")
    with pytest.raises(UndersongError, match="a worker process ended"):
        run(job(), tmp_path, "dead", clients=12, workers=1)
    assert [path.name for path in sorted((tmp_path / "dead").iterdir())] == ["lock", "simulation.json"]


def test_trees_of_many_clients_are_those_of_all_rows_in_one_place(tmp_path: Path) -> None:
    """To the bit, by rounds of sums alone: no round trains, and one client makes the version of what is told to all."""
    asked = job(recipe={"name": "trees", "params": {"depth": 2, "bins": 16}}, rounds=4, strategy={"name": "fedavg"})
    made = run(asked, tmp_path, clients=12, partition="dirichlet:0.5")
    kinds = [round_.kind for round_ in made.rounds]
    assert kinds == ["statistics"] * 9 + ["initialise", "evaluate"]
    assert made.metrics["auc"] > 0.8
    whole, found = table(), load(made.model.read_bytes()).tensors
    growth: Growth | Trees = Growth(whole.columns, TreeOptions(depth=2, bins=16), 4, "ill", {})
    while isinstance(growth, Growth):
        growth = growth.take(
            [0.0] * SALT + site_sums(growth, whole.features[whole.train], whole.label[whole.train]).tolist()
        )
    assert np.array_equal(found["trees.splits"], growth.splits)
    assert np.array_equal(found["trees.values"], growth.values)
    recipe = load_recipe("trees")
    said = recipe.predict(found, dict(zip("abc", whole.features[whole.test].T, strict=True)), asked["recipe"]["params"])
    sums = recipe.evaluate(found, whole, asked["recipe"]["params"], {})
    assert metrics_of("binary", sums)["accuracy"] == ((said >= 0.5) == whole.label[whole.test]).mean()
    assert made.job.progress["trained"] == 4
    alone = train_in_one_place(recipe, whole, asked["recipe"]["params"], rounds=4)
    assert np.array_equal(alone["trees.values"], found["trees.values"])
    with pytest.raises(RecipeError, match="no column d; did you mean"):
        recipe.predict(found, {"d": [1.0]}, {})
    with pytest.raises(RecipeError, match="other outputs"):
        recipe.predict(found, {"a": [1.0]}, {"task": "multiclass", "classes": 3})


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"privacy": {"model": "distributed", "epsilon": 1.0}}, "privacy.model", "nothing adds noise to them yet"),
        ({"rounds": 1001}, "rounds: ", "more than 1000"),
        ({"recipe": {"name": "trees", "params": {"depth": 8}}, "rounds": 300}, "rounds: ", "100,000 nodes"),
        ({"evaluation": {"early_stop": {"metric": "auc"}}}, "evaluation.early_stop", "evaluated once"),
        ({"recipe": {"name": "trees", "params": {"dept": 8}}}, "recipe.params", "did you mean 'depth'"),
        ({"recipe": {"name": "trees", "params": {"ranges": {"a": [0, 1]}}}}, "recipe.params.ranges", "range of b, c"),
    ],
)
def test_a_job_of_trees_that_cannot_run_is_refused_in_a_sentence(
    tmp_path: Path, changes: dict[str, Any], path: str, said: str
) -> None:
    asked = job(recipe={"name": "trees", "params": {}}, strategy={"name": "fedavg"}) | changes
    with pytest.raises(UndersongError) as refused:
        run(asked, tmp_path, clients=6)
    told = str(refused.value)
    assert said in told
    assert path in told

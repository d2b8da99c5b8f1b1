"""The Flower examples on a real platform, and under Flower's own FedAvg: run by an interpreter that has flwr installed.

`python flower_federation.py FOLDER` prints a line of JSON. FOLDER has the apps' recipes, and sites/ of `digits.py`.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from undersong.local import Platform
from undersong.recipes.catalogue import load_file
from undersong.recipes.datasets import load_dataset, read_datasets
from undersong.recipes.protocol import source_digest

EXAMPLES = Path(__file__).parents[2] / "examples" / "flower"
SITES = ("north", "south", "east", "west")
ROUNDS = 6


class NodesHere(Grid):
    """Flower's grid, whose nodes are calls of the ClientApp."""

    def __init__(self, app: Any, config: dict[str, Any], rows: list[Path]) -> None:
        self._app, self._config, self._rows = app, config, rows
        self.states = {node: RecordDict() for node in range(1, 1 + len(rows))}

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def get_nodes(self) -> Any:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.states)

    def create_message(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def push_messages(self, messages: Any) -> Any:
        raise NotImplementedError

    def pull_messages(self, message_ids: Any) -> Any:
        raise NotImplementedError

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            where = {"data-path": str(self._rows[node - 1])}
            TaskIdentity.node_id = node
            replies.append(self._app(message, Context(1, node, where, self.states[node], dict(self._config))))
        return replies


def under_flower(
    recipe: Any, initial: Any, train_config: dict[str, Any], params: dict[str, Any], rows: list[Path]
) -> dict[str, float]:
    """Return the metrics of the last evaluation of Flower's FedAvg with the recipe's ClientApp."""
    torch.manual_seed(0)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
    app = recipe._app
    config = {**app.config, **{name: value for name, value in params.items() if name in app.config}}
    strategy = FedAvg(min_train_nodes=4, min_evaluate_nodes=4, min_available_nodes=4)
    found = strategy.start(
        grid=NodesHere(app.client, config, rows),
        initial_arrays=ArrayRecord(initial),
        train_config=ConfigRecord(train_config),
        num_rounds=ROUNDS,
    )
    return dict(found.evaluate_metrics_clientapp[ROUNDS])


def rows_of(recipe: Any, declared: Path) -> Path:
    """Return a file of the rows that a site's app gets."""
    entry = read_datasets(declared)["digits"]
    data = load_dataset(entry, tuple(f"p{at}" for at in range(64)), "digit")
    file = declared.with_suffix(".npz")
    shutil.copy(recipe._written(data), file)
    return file


def main(folder: Path) -> None:
    """Run both examples both ways."""
    names = ("quickstart", "linear")
    found: dict[str, Any] = {}
    with Platform(folder / "home") as platform:
        for site in SITES:
            document = yaml.safe_load((folder / "sites" / f"{site}.yaml").read_text())
            document["datasets"][0]["path"] = str(folder / "sites" / f"{site}.csv")
            policy = {
                "federations": ["own"],
                "recipes": [{"digest": source_digest(folder / "own" / f"{name}.py")} for name in names],
                "datasets": {"digits": {"columns": "*"}},
                "engines": ["pairwise"],
            }
            settings = {"recipes": [str(folder / "own")], "containment": "required", "device": "cpu"}
            platform.add_site(site, datasets=document, policy=policy, agent=settings)
        platform.wait_sites_online(len(SITES), timeout_s=180)
        client = platform.client
        for name in names:
            spec = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
            changes = {"rounds": ROUNDS, "evaluation": {"every": ROUNDS}, "federation_id": platform.federation().id}
            job = client.wait(client.submit_job({**spec, **changes}).id, timeout_s=400)
            evaluated = [each for each in client.rounds(job.id) if each.kind == "evaluate" and each.metrics]
            found[name] = {
                "state": str(job.state),
                "here": dict(evaluated[-1].metrics or {}),
            }
    recipes = {name: load_file(folder / "own" / f"{name}.py") for name in names}
    quickstart, linear = recipes["quickstart"], recipes["linear"]
    rows = [rows_of(quickstart, folder / "sites" / f"{site}.yaml") for site in SITES]
    network = quickstart._app.attribute("quickstart.task:Net")().state_dict()
    found["quickstart"]["flower"] = under_flower(quickstart, network, {"lr": 0.05}, {"local-epochs": 1}, rows)
    found["linear"]["flower"] = under_flower(linear, [np.zeros((10, 64)), np.zeros(10)], {}, {}, rows)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

"""One set of `group_learning`: a job over simulated clients, the same recipe on all rows, and at clients alone."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import yaml

from tests.benchmarks.figures import Figure
from undersong.recipes.catalogue import load_recipe, own_recipes
from undersong.recipes.protocol import Recipe
from undersong.recipes.reference import score, train_in_one_place
from undersong.simulate import Run, simulate
from undersong.simulate.conditions import conditions_of
from undersong.simulate.loading import Data, load_rows
from undersong.simulate.planning import prepared
from undersong.simulate.rows import ClientRows

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
SHARED: Final = Path(__file__).parents[3] / "shared" / "data"
"""Data that the project does not carry, in a folder beside it; figures are left out without them."""
Sense = Literal["at least", "at most"]


@dataclass(frozen=True)
class LearningSet:
    """What is trained, and what is to be reached.

    bars: rounds and the value of `metric` by then. pooled_rounds, alone_rounds: of the recipe on all rows and at a
    client alone; without them the job's. alone: how many clients, evenly chosen, train alone.
    """

    name: str
    job: Mapping[str, Any]
    data: Callable[[Path], Data]
    metric: str
    bars: Mapping[int, float | None]
    sense: Sense = "at least"
    conditions: Mapping[str, Any] = field(default_factory=dict)
    recipes: Sequence[Path] = ()
    pooled_rounds: int | None = None
    alone_rounds: int | None = None
    alone: int = 16
    comparable: float | None = 0.01
    note: str = ""
    rounds_to: bool = False
    """Whether the round in which a bar is first reached is a figure of its own."""

    def figures(self) -> list[Figure]:
        """Train, and return the set's figures."""
        with tempfile.TemporaryDirectory() as folder:
            data = self.data(Path(folder))
            run = simulate(
                self.job, data, out=Path(folder) / "run", recipes=list(self.recipes), workers=2, **self.conditions
            )
            recipe, rows = self._recipe(), self._rows(data)
        federated, told = self._reached(run)
        pooled = self._trained(recipe, rows, None, self.pooled_rounds)
        places = np.unique(np.linspace(0, rows.split.clients - 1, self.alone).astype(int)).tolist()
        held = [place for place in places if rows.split.sizes[place]]
        alone = [self._trained(recipe, rows, place, self.alone_rounds) for place in held]
        gap = (pooled - federated) * (1 if self.sense == "at least" else -1)
        mean = float(np.mean(alone))
        return [
            *told,
            Figure(f"learning.{self.name}.pooled", pooled, "", note=f"{self.metric}; the same recipe on all rows"),
            Figure(
                f"learning.{self.name}.local_mean",
                mean,
                "",
                federated,
                "at most" if self.sense == "at least" else "at least",
                f"{self.metric} over all test rows; {len(alone)} clients alone",
            ),
            Figure(f"learning.{self.name}.gap", gap, "", self.comparable, "at most", "how much worse than pooled"),
        ]

    def _reached(self, run: Run) -> tuple[float, list[Figure]]:
        """Return the last value, and for each bar the last by its round, and when it was first reached."""
        found = [(r.number, (r.metrics or {})[self.metric]) for r in run.rounds if r.kind == "evaluate" and r.metrics]
        last, told = found[-1][1], []
        for limit, bar in self.bars.items():
            value = [value for number, value in found if number <= limit][-1]
            reached = [n for n, v in found if bar is not None and (v >= bar if self.sense == "at least" else v <= bar)]
            when = "" if bar is None else f", first reached at round {reached[0]}" if reached else ", not reached"
            name = f"learning.{self.name}.federated" + (f".r{limit}" if len(self.bars) > 1 else "")
            told.append(Figure(name, value, "", bar, self.sense, f"{self.metric} at round {limit}{when}{self.note}"))
            if self.rounds_to and reached:
                first = f"first evaluation with {self.metric} {bar:g}"
                told.append(Figure(f"learning.{self.name}.rounds", reached[0], "", limit, "at most", first))
        return last, told

    def _recipe(self) -> Recipe:
        name = self.job["recipe"]["name"]
        return own_recipes(list(self.recipes))[0] if self.recipes else load_recipe(name)

    def _rows(self, data: Data) -> ClientRows:
        conditions = conditions_of(
            **{"clients": None, "partition": "iid", "sample": None, **_DEFAULTS, **self.conditions}
        )
        return load_rows(data, prepared(self.job, conditions), [self._recipe().spec], conditions, 0).rows

    def _trained(self, recipe: Recipe, rows: ClientRows, client: int | None, rounds: int | None) -> float:
        params = self.job["recipe"]["params"]
        data = rows.data if client is None else rows.of(client)
        model = train_in_one_place(recipe, data, params, rounds=rounds or int(self.job["rounds"]))
        return score(recipe, model, rows.data, params)[self.metric]


_DEFAULTS: Final = {"drop": 0.0, "seed": None, "engine": "quantised", "noise_servers": 2}


def example(folder: str, name: str, **changes: Any) -> dict[str, Any]:
    """Return an example's job, with other values at its top."""
    return {**yaml.safe_load((EXAMPLES / folder / name).read_text()), **changes}


def declared(folder: str, name: str, path: Path | None = None) -> Callable[[Path], Data]:
    """Return what writes an example's declaration, of another file where one is given, and returns its place."""

    def write(into: Path) -> Data:
        if path is None:
            return EXAMPLES / folder / name
        document = yaml.safe_load((EXAMPLES / folder / name).read_text())
        for entry in document["datasets"]:
            entry["path"] = str(path)
        (into / name).write_text(yaml.safe_dump(document))
        return into / name

    return write

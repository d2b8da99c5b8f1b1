"""Series of the city's example that the project does not carry: traffic and electricity; from the folder beside it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rich.console import Console

from tests.benchmarks.learning_sets import SHARED, LearningSet, example
from tests.examples.test_city import CITY, module
from undersong.simulate.loading import Data

TRAFFIC: Final = SHARED / "metr_la_week.npz"
ELECTRICITY: Final = SHARED / "electricity_demand.csv.gz"


def sets(console: Console) -> Iterator[LearningSet]:
    """Yield the sets whose file is there: their bars are those of plain averaging, at most so large an error."""
    if TRAFFIC.exists():
        yield LearningSet(
            "metr",
            example("city", "traffic.yaml"),
            _prepared("traffic", TRAFFIC),
            "mae",
            {60: 3.50},
            sense="at most",
            conditions={"partition": "by:sensor", "sample": 0.1},
            pooled_rounds=5,
            alone=6,
            comparable=None,
            note="; miles an hour, 207 sensors, a tenth a round",
        )
    else:
        console.print(f"  metr: left out, there is no {TRAFFIC}")
    if not ELECTRICITY.exists():
        console.print(f"  electricity: left out, there is no {ELECTRICITY}")
        return
    for name, job, rounds, bar in (
        ("electricity", "electricity.yaml", 60, 0.20),
        ("electricity_linear", "electricity-linear.yaml", 10, 0.245),
    ):
        yield LearningSet(
            name,
            example("city", job),
            _prepared("electricity", ELECTRICITY),
            "mae",
            {rounds: bar},
            sense="at most",
            conditions={"partition": "by:month@+48"},
            alone=10,
            note="; GW, ten months",
        )


def _prepared(name: str, file: Path) -> Callable[[Path], Data]:
    def write(into: Path) -> Data:
        module("open_data").write(name, file, into)
        declared = into / f"{name}-data.yaml"
        declared.write_text((CITY / declared.name).read_text())
        return declared

    return write

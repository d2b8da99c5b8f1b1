"""The set `shakespeare` of `group_learning`: the roles of Shakespeare's plays, prepared as the example does."""

from pathlib import Path
from typing import Final

from tests.benchmarks.learning_sets import SHARED, LearningSet, example
from tests.examples.test_text import module
from undersong.simulate.loading import Data

FILE: Final = SHARED / "shakespeare_roles.jsonl.gz"


def plays() -> LearningSet:
    """Return the example's job after 100 rounds, of fifty clients each."""
    return LearningSet(
        "shakespeare",
        example("text", "job.yaml"),
        _rows,
        "accuracy",
        {100: 0.42},
        conditions={"partition": "by:role", "sample": 0.045},
        pooled_rounds=2,
        alone_rounds=10,
        alone=5,
        note="; next character, roles as clients, fifty a round",
    )


def _rows(folder: Path) -> Data:
    prepare = module()
    declared: Path = prepare.write_rows(prepare.read_roles(FILE), folder / "plays")
    return declared

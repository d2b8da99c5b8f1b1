"""Changes that a site trained ahead: what it gives, once, and what a coordinator that lies gets."""

import math
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from tests.shared.wire.manifests import SITES, manifest
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.repository.changes import TrainedChanges
from undersong.services.agent.rounds.buffered import buffered_payload, keep_change
from undersong.services.agent.runner.protocol import RunOutcome
from undersong.shared.ids import SiteId
from undersong.shared.learning.tensors import Model, Schema, save
from undersong.shared.secagg.quantise import plan_encoding
from undersong.shared.wire.manifest import TRAINING_ROUND, RoundKind, RoundManifest, StrategyRef

SITE = SiteId("site_b")
FEDBUFF = StrategyRef(name="fedbuff", params={"buffer": 3, "max_staleness": 2})
EQUAL = plan_encoding(summands=3, max_weight=1, clip_norm=5.0, bound_value=None, modulus_bits=32)


def model(folder: Path, value: float) -> Path:
    tensors = {"w": np.full(4, value, np.float32)}
    path = folder / f"{value}.safetensors"
    path.write_bytes(save(Model(Schema.of(tensors), tensors)))
    return path


def order(place: float = 0.0, **changes: Any) -> RoundManifest:
    context = {TRAINING_ROUND: [place, 5.0]}
    return manifest(RoundKind.PREPARE, number=0, strategy=FEDBUFF, encoding=EQUAL, context=context, **changes)


def collecting(place: float = 1.0, tau: int = 1, version: str = "ver_1", **changes: Any) -> RoundManifest:
    buffered = [{"site_id": site, "version_id": version, "staleness": tau} for site in SITES]
    given = {"number": 2, "strategy": FEDBUFF, "encoding": EQUAL, "context": {TRAINING_ROUND: [place, 5.0]}}
    return manifest(buffered=buffered, model={"version_id": "ver_2", "digest": "cd" * 32}, **{**given, **changes})


@pytest.fixture
def changes(tmp_path: Path) -> TrainedChanges:
    made = TrainedChanges(tmp_path / "changes")
    train(made, tmp_path)
    return made


def train(made: TrainedChanges, folder: Path, asked: RoundManifest | None = None, **outcome: Any) -> None:
    done = {"examples": 7, "loss": 0.5, "after": 2.0, **outcome}
    trained = RunOutcome(model(folder, done.pop("after")), **done)
    keep_change(made, asked or order(), (asked or order()).digest(), trained, model(folder, 1.0))


def test_a_change_is_given_under_one_number_again_and_again_and_then_erased(changes: TrainedChanges) -> None:
    for attempt in (1, 2):
        buffered_payload(collecting(attempt=attempt), SITE, changes)
    with pytest.raises(TaskFailure, match="given to another round"):
        buffered_payload(collecting(number=3), SITE, changes)
    changes.given(collecting().job_id, 1)
    assert changes.find(collecting().job_id) is not None, "of another number"
    changes.given(collecting().job_id, 2)
    with pytest.raises(TaskFailure, match="has no change"):
        buffered_payload(collecting(), SITE, changes)


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"tau": 0}, "says the change is 0 versions old, it is 1"),
        ({"tau": 100_000}, "it is 1"),
        ({"place": 0.0, "tau": 1}, "it is 0"),
        ({"place": 3.0, "tau": 3}, "collects up to 2"),
        ({"version": "ver_0"}, "another change"),
        ({"place": 1e300}, "place in its job"),
        ({"context": {}}, "place in its job"),
        ({"data": {"dataset": "heart", "features": ["age"], "label": "other"}}, "another change"),
        ({"recipe": {"name": "null", "digest": "ef" * 32}}, "another change"),
        ({"strategy": StrategyRef(name="fedavg")}, "no changes of equal weight"),
        ({"strategy": FEDBUFF.model_copy(update={"params": {"max_staleness": 10**9}})}, "does not take"),
        (
            {"encoding": plan_encoding(summands=3, max_weight=9, clip_norm=5.0, bound_value=None, modulus_bits=32)},
            "equal weight",
        ),
    ],
)
def test_a_coordinator_that_lies_gets_nothing(changes: TrainedChanges, lie: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskFailure, match=said):
        buffered_payload(collecting(**lie), SITE, changes)
    found = changes.find(collecting().job_id)
    assert found is not None
    assert found.used is None


@pytest.mark.parametrize("outcome", [{"examples": 0}, {"loss": math.nan}, {"loss": math.inf}, {"after": math.nan}])
def test_what_no_round_could_collect_is_not_called_ready(tmp_path: Path, outcome: dict[str, Any]) -> None:
    made = TrainedChanges(tmp_path / "changes")
    with pytest.raises(TaskFailure):
        train(made, tmp_path, **outcome)
    assert made.find(order().job_id) is None


def test_damaged_files_are_no_change_and_stop_nothing(changes: TrainedChanges, tmp_path: Path) -> None:
    job_id = collecting().job_id
    found = changes.find(job_id)
    assert found is not None
    (note,) = (tmp_path / "changes").glob("*.note")
    (vector,) = (tmp_path / "changes").glob("*.f32")
    whole, kept = note.read_bytes(), vector.read_bytes()
    vector.write_bytes(kept[:-1])
    with pytest.raises(TaskFailure, match="damaged"):
        buffered_payload(collecting(), SITE, changes)
    facts = msgpack.unpackb(whole)
    for odd in (b"", whole[:-3], b"\xc1", msgpack.packb([1]), msgpack.packb({**facts, "until": "soon"}),
                msgpack.packb({**facts, "vector": "../../x"}), msgpack.packb({**facts, "used": "x"}),
                msgpack.packb({**facts, "examples": None}), msgpack.packb({**facts, "length": 2.5})):  # fmt: skip
        note.write_bytes(odd)
        assert changes.find(job_id) is None, odd
        changes.forget()
        assert not note.exists()
    train(changes, tmp_path)
    buffered_payload(collecting(), SITE, changes)

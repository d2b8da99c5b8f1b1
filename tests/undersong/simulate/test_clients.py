"""Simulated clients send what agents send: with the same key for its rounding, the same words."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.undersong.simulate.slopes import SLOPE, job, run
from undersong.recipes.catalogue import load_recipe
from undersong.services.agent.rounds import updates
from undersong.services.agent.runner.protocol import RunOutcome
from undersong.shared.learning.tensors import Model, load, save
from undersong.shared.secagg.quantise import unpack
from undersong.shared.wire.manifest import RoundKind
from undersong.simulate.clients import ClientWork
from undersong.simulate.sampling import key_of


class Unused:
    """In place of committed sample counts, which this engine's rounds have not."""

    def message(self, *_: Any) -> None:
        return None


@pytest.mark.parametrize("limit", [{"clip_norm": 0.05}, {"bound": 4.0}])
def test_the_words_are_those_of_an_agent_with_the_same_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: dict[str, float]
) -> None:
    """An agent draws that key by `os.urandom` and tells it to no one, which a simulation cannot know."""
    seen: list[tuple[Any, bytes, Any, Any]] = []
    prepare, summed = ClientWork.prepare, ClientWork._summed

    def prepared(work: ClientWork, manifest: Any, model: Any) -> None:
        seen.append((manifest, model, work, []))
        prepare(work, manifest, model)

    def told(work: ClientWork, manifest: Any, clients: Any) -> Any:
        made = summed(work, manifest, clients)
        seen[-1][3].append((clients, made.total.copy()))
        return made

    monkeypatch.setattr(ClientWork, "prepare", prepared)
    monkeypatch.setattr(ClientWork, "_summed", told)
    run(job(engine="twoserver", rounds=2, update=limit, strategy={"name": "fedavg"}), tmp_path, clients=12)
    recipe, checked = load_recipe("slope", [SLOPE]), 0
    for manifest, model, work, answers in seen:
        if manifest.kind is not RoundKind.TRAIN:
            continue
        (tmp_path / "model").write_bytes(model)
        for clients, total in answers:
            words = np.zeros_like(total)
            for client in clients:
                name, data = work._rows.population.id_of(client), work._rows.of(client)
                start = load(model)
                made = recipe.train(start.tensors, data, {}, manifest.context, manifest.seed_of(name), lambda _: None)
                (tmp_path / "made").write_bytes(save(Model(start.schema, made.tensors)))
                outcome = RunOutcome(tensors=tmp_path / "made", examples=made.examples, loss=made.loss)
                key = key_of("update", 0, f"train/{manifest.number}/{manifest.attempt}", name)
                monkeypatch.setattr(updates.os, "urandom", lambda _, key=key: key)
                payload = updates.make_payload(manifest, name, outcome, tmp_path / "model", Unused(), Unused())  # type: ignore[arg-type]
                monkeypatch.undo()
                words += unpack(payload.data, payload.modulus_bits)
                checked += 1
            assert np.array_equal(words, total)
    assert checked == 24
    shutil.rmtree(tmp_path / "run")

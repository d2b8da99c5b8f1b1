"""Versions that a platform trained are loaded as a scientist does, and predict what their recipe evaluates."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.recipe_sites import COLUMNS, table
from undersong.client import AsyncClient, Client, UndersongError
from undersong.client.loaded import LoadedModel, checked
from undersong.client.types import Job
from undersong.recipes.catalogue import load_recipe
from undersong.shared.learning.tensors import load

ROWS = table(7)


def check_predictions(client: Client, jobs: Mapping[str, Job], folder: Path) -> None:
    """Of each kind of recipe, and what must not predict."""
    check_names_of_classes(check_loaded(client, jobs["five classes"], folder))
    check_loaded(client, jobs["trees"], folder)
    check_refusals(client, jobs["five classes"], jobs["trees"], folder)
    check_own(client, jobs["own, binary"], Path(__file__).with_name("constant_recipe.py"))


def check_loaded(client: Client, job: Job, folder: Path) -> LoadedModel:
    """By the version's id and by its model's alias and number, in both clients, after the evidence was checked."""
    assert job.version_id is not None
    model = client.model(str(job.model_id))
    client.set_alias(model.id, "champion", job.version_id)
    model = client.model(model.name)
    found = model.champion.load()
    said = found.predict(ROWS)
    number = client.version(job.version_id).number
    for other in (f"{model.name}@champion", f"{model.name}:{number}", job.version_id):
        assert client.load_model(other).predict(ROWS).equals(said)
    assert asyncio.run(_loaded(client, model.name)).predict(ROWS).equals(said)
    recipe = load_recipe(found.predictor.recipe.spec.name)
    file = folder / f"{model.id}.safetensors"
    client.download(job.version_id, file)
    rows = {column.name: list(ROWS[column.name]) for column in found.columns}
    told = recipe.predict(load(file.read_bytes()).tensors, rows, job.spec["recipe"]["params"])
    shares = np.stack([1 - told, told], axis=1) if told.ndim == 1 else told
    assert np.array_equal(said[[f"probability_{name}" for name in found.classes]], shares)
    return found


async def _loaded(client: Client, name: str) -> LoadedModel:
    async with AsyncClient(client.profile) as other:
        made: LoadedModel = await (await other.model(name)).champion.load()
        return made


def check_names_of_classes(found: LoadedModel) -> None:
    named = next(column for column in COLUMNS if column["name"] == "kind")
    assert sorted(found.classes) == sorted(named["categories"])


def check_refusals(client: Client, job: Job, other: Job, folder: Path) -> None:
    """No prediction by another authority's, another version's or a changed file or evidence."""
    assert job.version_id is not None
    assert other.version_id is not None
    evidence, ca = client.evidence(job.version_id), client.authority().fingerprint
    content = (folder / f"{job.model_id}.safetensors").read_bytes()
    record = evidence.logged.record
    changed = record.model_copy(update={"sum_digest": "0" * 64})
    logged = evidence.logged.model_copy(update={"record": changed})
    cases: dict[str, tuple[Any, ...]] = {
        "authority: no trusted authority": (content, evidence, job.version_id, None),
        "not the one that was pinned": (content, evidence, job.version_id, "0" * 64),
        "the evidence is about": (content, evidence, other.version_id, ca),
        "the file is not version": (content[:-1] + bytes([content[-1] ^ 1]), evidence, job.version_id, ca),
        "does not verify": (content, evidence.model_copy(update={"logged": logged}), job.version_id, ca),
    }
    for said, given in cases.items():
        with pytest.raises(UndersongError, match=f"(?i){said}"):
            checked(*given)
    with pytest.raises(UndersongError, match="no version 'contender'"):
        client.model(str(job.model_id)).version("contender").load()
    with pytest.raises(UndersongError, match="no model is called 'hart'"):
        client.load_model("hart@champion")


def check_own(client: Client, job: Job, source: Path) -> None:
    """A version of an own recipe predicts where its file is named."""
    assert job.version_id is not None
    with pytest.raises(UndersongError, match="is unknown here"):
        client.load_model(job.version_id)
    assert len(client.load_model(job.version_id, recipes=[source]).predict(ROWS)) == len(ROWS)

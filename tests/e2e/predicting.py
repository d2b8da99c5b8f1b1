"""Versions that a platform trained are loaded as a scientist does, and predict what their recipe evaluates."""

import asyncio
import contextlib
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.e2e.recipe_sites import COLUMNS, table
from undersong import cli
from undersong.client import AsyncClient, Client, UndersongError
from undersong.client.loaded import LoadedModel, checked
from undersong.client.types import Job
from undersong.profile import save_profile
from undersong.recipes.catalogue import load_recipe
from undersong.shared.learning.tensors import load

ROWS = table(7)


def check_predictions(client: Client, jobs: Mapping[str, Job], folder: Path) -> None:
    """Of each kind of recipe, and what must not predict."""
    check_names_of_classes(check_loaded(client, jobs["five classes"], folder))
    check_loaded(client, jobs["trees"], folder)
    check_commands(client, jobs["five classes"], folder)
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


def check_commands(client: Client, job: Job, folder: Path) -> None:
    """By name, and without network from what was pulled; faults have their places, and leave no file."""
    (folder / "config").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSONG_HOME", str(folder / "config"))
        patch.chdir(folder)
        save_profile(client.profile)
        model = client.model(str(job.model_id))
        assert "next: undersong verify" in run("evidence", f"{model.name}@champion", "--out", "it.evidence.json")
        run("model", "pull", model.name, "--version", "champion", "--out", "pulled.safetensors")
        ROWS.to_csv("rows.csv", index=False)
        ROWS.to_csv("rows.tsv", index=False, sep="\t")
        ROWS.to_parquet("rows.parquet")
        ROWS.to_json("rows.jsonl", orient="records", lines=True)
        Path("odd.csv").write_text("a,b\n1,x\n2,purple\n")
        Path("sheet.xlsx").write_bytes(b"PK\x03\x04")
        assert f"{len(ROWS)} predictions" in run(
            "predict", f"{model.name}@champion", "rows.csv", "--out", "by-name.csv"
        )
        said = pd.read_csv("by-name.csv")
        assert np.allclose(said.iloc[:, 1:], model.champion.load().predict(ROWS).iloc[:, 1:], rtol=0, atol=1e-12)
        (folder / "config" / "profiles.toml").unlink()
        offline = ("pulled.safetensors", "--ca", client.authority().fingerprint)
        Path("absent.csv").write_text("a,b\nNA,?\n")
        Path("empty.csv").write_text("a,b\n,\n")
        absent = ("absent.csv", "--missing", "NA", "--missing", "?")
        assert run("predict", *offline, *absent) == run("predict", *offline, "empty.csv")
        for name in ("rows.tsv", "rows.parquet", "rows.jsonl"):
            run("predict", offline[0], name, *offline[1:], "--out", "found.parquet")
            assert np.allclose(pd.read_parquet("found.parquet").iloc[:, 1:], said.iloc[:, 1:], rtol=0, atol=1e-7)
        run("model", "export", *offline, "--format", "torch", "--out", "model.pt2")
        extra = {"undersong.json": ""}
        program = torch.export.load("model.pt2", extra_files=extra).module()
        columns = [column["name"] for column in json.loads(extra["undersong.json"])["columns"]]
        codes = np.stack([ROWS["a"], ROWS["b"] == "y"], axis=1).astype(np.float64)
        assert columns == ["a", "b"]
        with torch.no_grad():
            assert np.allclose(program(torch.from_numpy(codes)).numpy(), said.iloc[:, 1:], rtol=0, atol=1e-5)
        assert run("predict", offline[0], "rows.csv", *offline[1:]).splitlines()[0] == ",".join(said.columns)
        check_complaints(offline)


def check_complaints(offline: tuple[str, ...]) -> None:
    cases = {
        "/rows/1/b: 'purple' is outside its categories: x, y": ("predict", offline[0], "odd.csv", *offline[1:]),
        "/rows/0/a: 'NA' is not a number": ("predict", offline[0], "absent.csv", *offline[1:]),
        "rows are read from .csv": ("predict", offline[0], "sheet.xlsx", *offline[1:]),
        "there is no file none.csv": ("predict", offline[0], "none.csv", *offline[1:]),
        "nothing proves that pulled.safetensors": ("predict", offline[0], "rows.csv"),
        "not the one that was pinned": ("predict", offline[0], "rows.csv", "--ca", "0" * 64),
        "not as out.xlsx": ("predict", offline[0], "rows.csv", "--out", "out.xlsx"),
        "pulled.csv is no evidence": ("predict", offline[0], "rows.csv", *offline[1:], "--evidence", "pulled.csv"),
        "the file is not version": (
            "predict", "changed.safetensors", "rows.csv", *offline[1:], "--evidence", "it.evidence.json",
        ),
        "there is no evidence of changed.safetensors": ("predict", "changed.safetensors", "rows.csv", *offline[1:]),
    }  # fmt: skip
    Path("pulled.csv").write_text("{}")
    content = Path("pulled.safetensors").read_bytes()
    Path("changed.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for said, words in cases.items():
        more = () if "--out" in words else ("--out", "never.csv")
        assert said in run(*words, *more, code=1), (said, words)
        assert not Path("never.csv").exists()


def run(*words: str, code: int = 0) -> str:
    """Run a command in this process; what it printed, with its complaint."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as complaints:
        patch.setattr(sys, "argv", ["undersong", *words])
        with contextlib.redirect_stdout(io.StringIO()) as told, pytest.raises(SystemExit) as ended:
            cli.main()
    said = told.getvalue() + complaints.getvalue()
    assert (ended.value.code or 0) == code, said
    return said

"""The poisoning example in small: the same recipe, images and cheat, through both engines in one process."""

import importlib.util
import json
import os
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.shared.secagg.pairwise import test_engine as pairwise
from tests.shared.wire.manifests import manifest
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.datasets import DatasetEntry, load_dataset
from undersong.recipes.protocol import Dataset, Tensors
from undersong.shared.fields.sums import add_field, centred
from undersong.shared.ids import SiteId
from undersong.shared.learning.strategies import combined
from undersong.shared.learning.tensors import Model, difference, flatten, save, unflatten
from undersong.shared.secagg.payload import opened_train, train_payload
from undersong.shared.secagg.quantise import plan_encoding, plan_norm, unpack
from undersong.shared.secagg.twoserver import schemes
from undersong.shared.secagg.twoserver.engine import vector_of
from undersong.shared.secagg.twoserver.schemes import HELPER, LEADER, Integers, SplitScheme, scheme_for
from undersong.shared.vdaf.errors import VdafRejected
from undersong.shared.wire.manifest import Encoding, RoundManifest

EXAMPLE = Path(__file__).parents[2] / "examples" / "poisoning"
SITES = pairwise.SITES
ROUNDS = 5
CLIP = 5.0
PARAMS = {"learning_rate": 0.05, "epochs": 2, "channels": [8, 16]}
CTX = b"round"


@cache
def module(name: str) -> ModuleType:
    """Return a script of the example; it brings scikit-learn, which takes a second to import."""
    spec = importlib.util.spec_from_file_location(f"poisoning_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


class Masked(pairwise.Parties):
    """The pairwise round of these vectors."""

    def __init__(self, vectors: dict[SiteId, np.ndarray], encoding: Encoding) -> None:
        self.vectors = vectors
        super().__init__({"encoding": encoding.model_dump(mode="json")})

    def vector(self, site: SiteId) -> np.ndarray:
        return self.vectors[site]

    def opened(self) -> np.ndarray:
        for step in ("advertise", "share", "check"):
            self.step(step)
        self.upload()
        for step in ("commit", "unmask"):
            self.step(step)
        return self.total()


class Federation:
    """Five sites; the last has turned its labels round, and boosts its update."""

    def __init__(self, folder: Path) -> None:
        self.digits = module("run").Digits(folder)
        self.recipe = load_recipe("image")
        self.data: dict[SiteId, Dataset] = {}
        for site, name in zip(SITES, module("run").SITES, strict=True):
            (document,) = self.digits.write(name, flipped=name == module("run").POISONER)["datasets"]
            self.data[site] = load_dataset(DatasetEntry.model_validate(document))
        self.first: Model = self.recipe.initial(self.data[SITES[0]].shape, PARAMS, {}, 0)

    def trained(self, model: Tensors, number: int) -> dict[SiteId, np.ndarray]:
        made = {
            site: self.recipe.train(model, data, PARAMS, {}, number, lambda _: None).tensors
            for site, data in self.data.items()
        }
        return {site: difference(self.first.schema, after, model) for site, after in made.items()}

    def boosted(self, asked: RoundManifest, delta: np.ndarray):
        return module("cheat").boosted(asked, delta, self.first.schema.parameters, loss=0.5)

    def moved(self, model: Tensors, mean: np.ndarray) -> Tensors:
        schema = self.first.schema
        return unflatten(schema, flatten(schema, model) + mean, model)

    def accuracy(self, model: Tensors) -> float:
        path = self.digits.folder / "model.safetensors"
        path.write_bytes(save(Model(self.first.schema, dict(model))))
        return self.digits.accuracy(path, PARAMS)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("digits"))


def test_under_pairwise_the_boosted_update_is_in_the_sum_and_ruins_the_model(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = plan_encoding(summands=5, max_weight=1, clip_norm=CLIP, bound_value=None, modulus_bits=32)
    asked = manifest(engine="pairwise", encoding=encoding, cohort=SITES, target=5)
    model = federation.first.tensors
    for number in range(2):
        payloads, deltas = {}, federation.trained(model, number)
        for site, delta in deltas.items():
            payloads[site] = train_payload(asked, delta, examples=1, loss=0.5, key=os.urandom(32))
        payloads[SITES[-1]] = federation.boosted(asked, deltas[SITES[-1]])
        vectors = {site: unpack(payload.data, 32) for site, payload in payloads.items()}
        monkeypatch.setattr(pairwise, "LENGTH", vectors[SITES[0]].size)
        mean = opened_train(asked, Masked(vectors, encoding).opened(), 5).mean
        poison = deltas[SITES[-1]][: federation.first.schema.parameters]
        along = float(mean[: poison.size] @ poison / (np.linalg.norm(mean[: poison.size]) * np.linalg.norm(poison)))
        assert along > 0.7, "the sum points where the poisoner wants it to"
        model = federation.moved(model, mean)
    assert federation.accuracy(model) < 0.3


def test_under_twoserver_it_is_refused_and_the_model_learns(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = manifest(engine="twoserver", encoding=plan_norm(summands=5, clip_norm=CLIP), cohort=SITES, target=5)
    model, length = federation.first.tensors, federation.first.schema.length
    servers = scheme_for(asked, length)
    monkeypatch.setattr(schemes, "_pine", module("cheat")._liar)
    liar = scheme_for(asked, length)
    monkeypatch.undo()
    for number in range(ROUNDS):
        deltas = federation.trained(model, number)
        with pytest.raises(VdafRejected, match="norm"):
            checked(servers, liar, vector_of(asked, federation.boosted(asked, deltas.pop(SITES[-1]))))
        vectors = []
        total = np.zeros(length, np.uint64)
        for delta in deltas.values():
            vectors.append(vector_of(asked, train_payload(asked, delta, examples=1, loss=0.5, key=os.urandom(32))))
            for share in checked(servers, servers, vectors[-1]):
                add_field(total, share, out=total)
        centred(total)
        assert np.array_equal(total.view(np.int64), np.sum(vectors, axis=0)), "the sum of the honest, and no more"
        model = federation.moved(model, opened_train(asked, total, len(vectors)).mean)
    assert federation.accuracy(model) > 0.8


@pytest.mark.parametrize(("name", "learns"), [("median", True), ("fedavg", False)])
def test_under_sealed_the_median_of_single_updates_learns_where_the_mean_does_not(
    federation: Federation, name: str, learns: bool
) -> None:
    encoding = plan_encoding(summands=5, max_weight=1, clip_norm=CLIP, bound_value=None, modulus_bits=32)
    asked = manifest(engine="sealed", encoding=encoding, cohort=SITES, target=5)
    model = federation.first.tensors
    for number in range(ROUNDS if learns else 2):
        payloads, deltas = [], federation.trained(model, number)
        poisoned = federation.boosted(asked, deltas.pop(SITES[-1]))
        for delta in deltas.values():
            payloads.append(train_payload(asked, delta, examples=1, loss=0.5, key=os.urandom(32)))
        words = [unpack(payload.data, 32) for payload in (*payloads, poisoned)]
        mean = opened_train(asked, np.sum(words, axis=0, dtype=np.uint32), 5).mean
        if learns:
            mean = combined(name, np.stack([opened_train(asked, each, 1).mean for each in words]), {})
        model = federation.moved(model, mean)
    assert (federation.accuracy(model) > 0.8) == learns


def checked(servers: SplitScheme, site: SplitScheme, vector: Integers) -> list[np.ndarray]:
    """Both servers' out shares of what the site made of a vector; VdafRejected."""
    key, nonce = os.urandom(32), os.urandom(16)
    public, *shares = site.shard(CTX, vector, nonce, os.urandom)
    begun = [servers.begin(key, CTX, role, nonce, public, shares[role]) for role in (LEADER, HELPER)]
    message = servers.message(CTX, [said for _, said in begun])
    for state, _ in begun:
        servers.finish(CTX, state, message)
    return [servers.out_share(CTX, role, nonce, shares[role]) for role in (LEADER, HELPER)]


def test_the_docs_picture_and_numbers_are_those_of_one_run() -> None:
    folder = EXAMPLE.parents[1] / "docs" / "pictures"
    measured = json.loads((folder / "poisoning.json").read_text())
    curves = measured["accuracy"]
    assert (folder / "poisoning.svg").read_text() == module("run").picture(curves)
    honest, ruined, kept = curves[module("run").HONEST], curves[module("run").PAIRWISE], curves[module("run").TWOSERVER]
    assert honest[0] == ruined[0] == kept[0], "one first version"
    assert max(ruined[1:]) < 0.3
    assert abs(kept[-1] - honest[-1]) < 0.05
    assert abs(curves[module("run").MEDIAN][-1] - honest[-1]) < 0.1
    assert set(measured["poisoner_under_twoserver"]) == {"vdaf-rejected"}

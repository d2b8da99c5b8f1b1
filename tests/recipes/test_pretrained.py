"""Files of a pretrained model at each site: found, compared, loaded strictly, and kept out of the model."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undersong.recipe import TEXT, ModelShape, Pretrained, TorchRecipe
from undersong.recipes.pretrained import FROZEN
from undersong.recipes.protocol import Dataset, RecipeError
from undersong.recipes.reference import score, train_in_one_place
from undersong.shared.learning import safetensors
from undersong.shared.learning.tensors import TensorRole, save
from undersong.shared.wire.profiles import Column

TEXTS = (Column(name="said", type="text"),)
LETTERS = "abcdefghij"
BASE = {"weight": np.random.default_rng(3).normal(size=(12, len(LETTERS))).astype(np.float32) * np.float32(0.2)}


def encode(texts: list[str], scale: float = 1.0) -> Any:
    return np.array([[text.count(letter) * scale for letter in LETTERS] for text in texts], np.float32)


def kept(folder: Path, tensors: dict[str, Any] = BASE) -> Pretrained:
    """Put a file beside a recipe of this folder, and return what names it."""
    (folder / "own").mkdir(exist_ok=True)
    data = safetensors.write(tensors)
    (folder / "own" / "base.safetensors").write_bytes(data)
    return Pretrained({"base.safetensors": hashlib.sha256(data).hexdigest()}, beside=folder / "own.py")


def recipe(base: Pretrained, **kwargs: Any) -> TorchRecipe:
    def build(shape: ModelShape, drawn: bool = False) -> Any:
        """A frozen layer from the file, and a head."""
        from torch import nn

        first = nn.Linear(shape.inputs, 12, bias=False)
        if not drawn:
            base.load(first, "base.safetensors")
        first.requires_grad_(requires_grad=False)
        return nn.Sequential(first, nn.Tanh(), nn.Linear(12, shape.outputs))

    return TorchRecipe(Path(__file__), build=build, encode=encode, inputs=TEXT, pretrained=base, **kwargs)


def said(rows: int = 200) -> Dataset:
    random = np.random.default_rng(0)
    texts = np.empty(rows, object)
    texts[:] = ["".join(random.choice(list(LETTERS), 12)) for _ in range(rows)]
    label = np.array([float(text.count("a") + text.count("b") > text.count("i") + text.count("j")) for text in texts])
    return Dataset("d", TEXTS, texts, label, np.arange(rows - 60), np.arange(rows - 60, rows), "y")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return kept(tmp_path_factory.mktemp("pretrained"))


def test_a_recipe_of_texts_learns_over_a_base_that_is_in_no_model(base: Pretrained) -> None:
    found = recipe(base)
    first = found.initial(said().shape, {}, {}, 0)
    assert {spec.name: spec.role for spec in first.schema.tensors} == {
        "2.weight": TensorRole.PARAMETER,
        "2.bias": TensorRole.PARAMETER,
        FROZEN: TensorRole.FIXED,
    }
    params, data = {"epochs": 10, "learning_rate": 1.0}, said(400)
    model = train_in_one_place(found, data, params, rounds=4)
    assert score(found, model, data, params)["auc"] > 0.9
    assert np.array_equal(model[FROZEN], first.tensors[FROZEN])
    good, bad = found.predict(model, {"said": ["aaab", "jjii"]}, {})
    assert good > 0.5 > bad
    assert len(save(first)) < 1000


def test_a_site_with_another_base_is_refused(base: Pretrained) -> None:
    found = recipe(base)
    model = found.initial(said().shape, {}, {}, 0).tensors
    for act in (
        lambda: found.train(model, said(), {"drawn": True}, {}, 1, lambda _: None),
        lambda: found.evaluate(model, said(), {"drawn": True}, {}),
        lambda: found.predict(model, {"said": ["a"]}, {"drawn": True}),
    ):
        with pytest.raises(RecipeError, match="frozen layers at this site are others"):
            act()


def test_a_file_that_is_missing_or_another_is_refused_before_it_is_used(tmp_path: Path) -> None:
    named = kept(tmp_path)
    found = recipe(named)
    file = tmp_path / "own" / "base.safetensors"
    file.write_bytes(safetensors.write({"weight": BASE["weight"] + 1}))
    with pytest.raises(RecipeError, match=re.escape("base.safetensors at this site is another")):
        found.initial(said().shape, {}, {}, 0)
    file.unlink()
    with pytest.raises(RecipeError, match="cannot be read at this site: No such file"):
        found.initial(said().shape, {}, {}, 0)
    absent = Pretrained({"weights": "0" * 64}, package="no_such_package")
    with pytest.raises(RecipeError, match="package no_such_package is not installed at this site"):
        absent.check()


def test_files_of_a_package_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_base" / "model").mkdir(parents=True)
    (tmp_path / "a_base" / "__init__.py").write_text("raise RuntimeError('a package of files is not imported')\n")
    (tmp_path / "a_base" / "model" / "words.txt").write_text("a\n")
    monkeypatch.syspath_prepend(tmp_path)
    named = Pretrained({"model/words.txt": hashlib.sha256(b"a\n").hexdigest()}, package="a_base")
    named.check()
    assert named.path("model/words.txt").read_text() == "a\n"
    with pytest.raises(RecipeError, match=r"did you mean 'model/words.txt'"):
        named.path("model/word.txt")


def misfits() -> Iterator[Any]:
    weight, odd = BASE["weight"], BASE["weight"].copy()
    odd[2, 3] = np.nan
    yield pytest.param(
        {"wieght": weight}, {}, "no tensor weight, which the module has; did you mean 'wieght'", id="name"
    )
    yield pytest.param({"weight": weight, "bias": weight[0]}, {}, "a tensor bias, which the module has not", id="extra")
    yield pytest.param({"weight": weight.T.copy()}, {}, "has the shape [10, 12], the module's [12, 10]", id="shape")
    yield pytest.param(
        {"weight": weight.astype(np.int32)}, {}, "is int32, and the module's is torch.float32", id="type"
    )
    yield pytest.param({"weight": odd}, {}, "finite", id="finite")
    yield pytest.param({"weight": weight}, {"fresh": ["wight"]}, "fresh names 'wight'", id="fresh")
    yield pytest.param({"weight": weight}, {"unused": ["pooler."]}, "unused names 'pooler.'", id="unused")


@pytest.mark.parametrize(("tensors", "options", "told"), [*misfits()])
def test_a_file_that_does_not_fit_the_module_is_refused(
    tmp_path: Path, tensors: dict[str, Any], options: dict[str, Any], told: str
) -> None:
    from torch import nn

    data = safetensors.write({"weight": BASE["weight"]}) if told == "finite" else safetensors.write(tensors)
    if told == "finite":  # the platform writes no such file
        data = data[: -BASE["weight"].nbytes] + tensors["weight"].tobytes()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "base.safetensors").write_bytes(data)
    named = Pretrained({"base.safetensors": hashlib.sha256(data).hexdigest()}, beside=tmp_path / "own.py")
    with pytest.raises(RecipeError, match=re.escape(told)):
        named.load(nn.Linear(10, 12, bias=False), "base.safetensors", **options)


def test_layers_may_be_fresh_and_tensors_unused(tmp_path: Path) -> None:
    from torch import nn

    named = kept(tmp_path, {"0.weight": BASE["weight"], "pooler.weight": BASE["weight"]})
    module = nn.Sequential(nn.Linear(10, 12, bias=False), nn.Linear(12, 2))
    head = module[1].weight.detach().clone()
    named.load(module, "base.safetensors", fresh=["1."], unused=["pooler."])
    assert np.array_equal(module[0].weight.detach().numpy(), BASE["weight"])
    assert (module[1].weight == head).all()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"files": {}}, "give one of the two"),
        ({"files": {}, "package": "a", "beside": "b"}, "give one of the two"),
        ({"files": {"../secret": "0" * 64}, "package": "a"}, "outside the folder"),
        ({"files": {"/etc/passwd": "0" * 64}, "package": "a"}, "outside the folder"),
        ({"files": {"a": "0" * 63}, "package": "a"}, "64 hexadecimal digits"),
    ],
)
def test_names_and_digests_that_are_none_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        Pretrained(**given)


def test_texts_and_encode_come_together(base: Pretrained) -> None:
    for given in ({"inputs": TEXT}, {"encode": encode}, {"inputs": ("text", "number"), "encode": encode}):
        with pytest.raises(RecipeError, match="inputs=TEXT and encode"):
            TorchRecipe(Path(__file__), build=lambda shape: shape, **given)
    odd = recipe(base)
    odd._encode = lambda texts, **_: np.zeros(len(texts) + 1)
    with pytest.raises(RecipeError, match="as many rows as texts"):
        odd.initial(said().shape, {}, {}, 0)


def test_numbers_that_the_module_cannot_hold_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"weight of base\.safetensors holds a number that torch\.float32 cannot"):
        recipe(kept(tmp_path, {"weight": BASE["weight"].astype(float) * 1e300})).initial(said().shape, {}, {}, 0)
    os.mkfifo(tmp_path / "own" / "pipe")
    with pytest.raises(RecipeError, match="it is a named pipe, and a file is expected"):
        Pretrained({"pipe": "0" * 64}, beside=tmp_path / "own.py").check()
    with pytest.raises(RecipeError, match="outside the folder"):
        Pretrained({"a\0b": "0" * 64}, beside=tmp_path / "own.py")

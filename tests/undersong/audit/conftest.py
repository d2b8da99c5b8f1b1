"""A version that was trained on a site's rows, and what its round said of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.shared.wire.manifests import manifest
from undersong.audit.running import AuditSubject
from undersong.audit.trainer import rows_of
from undersong.client.types import Version
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.datasets import read_datasets
from undersong.recipes.reference import train_in_one_place
from undersong.shared.ids import digest_of
from undersong.shared.learning.tensors import Model, load, save
from undersong.shared.wire.manifest import RoundManifest

ROWS, COLUMNS = 200, 8
MEMORISES = {"model": "mlp", "hidden": [64], "epochs": 80, "learning_rate": 0.3, "batch_size": 16}
"""A model that is far too large for its rows, so that it remembers them."""


@pytest.fixture
def declarations(tmp_path: Path) -> Path:
    """A ``datasets.yaml`` over rows whose labels are half chance."""
    random = np.random.default_rng(11)
    values = random.normal(size=(ROWS, COLUMNS))
    label = (values[:, 0] + 1.5 * random.normal(size=ROWS) > 0).astype(int)
    names = [f"x{place}" for place in range(COLUMNS)]
    lines = [",".join([*names, "sick"])]
    lines += [
        ",".join([*(f"{value:.6f}" for value in row), str(sick)]) for row, sick in zip(values, label, strict=True)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    columns = "".join(f"      - {{name: {name}, type: number}}\n" for name in [*names, "sick"])
    file = tmp_path / "datasets.yaml"
    file.write_text(
        "datasets:\n  - name: ward\n    kind: csv\n    path: rows.csv\n    label: sick\n    test_fraction: 0.5\n"
        f"    columns:\n{columns}"
    )
    return file


@pytest.fixture
def round_of(declarations: Path) -> Callable[..., RoundManifest]:
    """Makes the manifest of a training round over these rows."""

    def make(params: dict[str, Any], **changes: Any) -> RoundManifest:
        entry = read_datasets(declarations)["ward"]
        names = [column.name for column in entry.columns if column.name != "sick"]
        data = {
            "dataset": "ward",
            "features": names,
            "label": "sick",
            "columns": [{"name": name, "type": "number"} for name in [*names, "sick"]],
        }
        recipe = {"name": "tabular", "digest": load_recipe("tabular").spec.digest, "params": params}
        return manifest(engine="pairwise", recipe=recipe, data=data, **changes)

    return make


@pytest.fixture
def subject_of(declarations: Path) -> Callable[..., AuditSubject]:
    """Makes the subject of an audit: a model that the recipe itself trained in this process."""

    def make(asked: RoundManifest, rounds: int = 1, **changes: Any) -> AuditSubject:
        data = rows_of(read_datasets(declarations)["ward"], asked.data)
        recipe, params = load_recipe("tabular"), asked.recipe.params
        tensors = train_in_one_place(recipe, data, params, rounds=rounds, seed=1)
        context = {"statistics": list(recipe.statistics(data, params, 1))}
        schema = recipe.initial(data.shape, params, context, 1).schema
        file = save(Model(schema.result(tensors), tensors))
        version = Version(id="ver_1", model_id="mdl_1", number=1, content_digest=digest_of(file))
        return AuditSubject(version, asked, load(file), changes.get("claim"))

    return make
